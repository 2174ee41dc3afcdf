package hostrpc

import (
	"context"
	"errors"
	"os"
	"runtime"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
)

// systemStatus is the answer of system.status. Sizes are bytes, percentages 0 to
// 100 with one decimal. Values that the host refuses are null or "" and named in
// Unavailable.
type systemStatus struct {
	Hostname        string        `json:"hostname"`
	OS              string        `json:"os"`
	Arch            string        `json:"arch"`
	Platform        string        `json:"platform"`
	PlatformVersion string        `json:"platformVersion"`
	Kernel          string        `json:"kernel"`
	UptimeSeconds   *uint64       `json:"uptimeSeconds"`
	BootTime        *time.Time    `json:"bootTime"`
	CPU             *cpuStatus    `json:"cpu"`
	Memory          *memoryStatus `json:"memory"`
	Swap            *swapStatus   `json:"swap"`
	Load            *loadStatus   `json:"load"`
	Unavailable     []unavailable `json:"unavailable,omitempty"`
}

type cpuStatus struct {
	Percent *float64   `json:"percent"` // of all cores, over the last second
	PerCore []*float64 `json:"perCore"`
	Cores   int        `json:"cores"` // logical
}

type memoryStatus struct {
	Total       uint64   `json:"total"`
	Available   uint64   `json:"available"`
	Used        uint64   `json:"used"`
	UsedPercent *float64 `json:"usedPercent"`
}

type swapStatus struct {
	Total       uint64   `json:"total"`
	Used        uint64   `json:"used"`
	Free        uint64   `json:"free"`
	UsedPercent *float64 `json:"usedPercent"`
}

type loadStatus struct {
	Load1  float64 `json:"load1"`
	Load5  float64 `json:"load5"`
	Load15 float64 `json:"load15"`
}

// identity is what cannot change while a process lives. It is read once: in a
// container the boot time is computed from the uptime and would vary by a second.
type identity struct {
	platform, version, kernel string
	boot                      *time.Time
	missing                   []unavailable
}

func (s *sampler) readIdentity(ctx context.Context) *identity {
	var id identity
	s.read("platform", &id.missing, func() (err error) {
		id.platform, _, id.version, err = host.PlatformInformationWithContext(ctx)
		return err // it is "" without a release file, as in images made from scratch
	})
	s.read("kernel", &id.missing, func() (err error) {
		id.kernel, err = host.KernelVersionWithContext(ctx)
		return err
	})
	s.read("bootTime", &id.missing, func() error {
		seconds, err := host.BootTimeWithContext(ctx)
		if err == nil && seconds == 0 {
			err = errors.New("the host has neither boot time nor uptime")
		}
		if err == nil {
			id.boot = new(time.Unix(int64(seconds), 0).UTC())
		}
		return err
	})
	return &id
}

func (s *sampler) readSystem(ctx context.Context) systemStatus {
	if s.identity == nil {
		s.identity = s.readIdentity(ctx)
	}
	st := systemStatus{
		OS:              runtime.GOOS,
		Arch:            runtime.GOARCH,
		Platform:        s.identity.platform,
		PlatformVersion: s.identity.version,
		Kernel:          s.identity.kernel,
		BootTime:        s.identity.boot,
	}
	// A copy, because appends below must not share an array between samples.
	missing := append([]unavailable(nil), s.identity.missing...)
	s.read("hostname", &missing, func() (err error) {
		st.Hostname, err = os.Hostname()
		return err
	})
	s.read("uptimeSeconds", &missing, func() error {
		seconds, err := host.UptimeWithContext(ctx)
		if err == nil {
			st.UptimeSeconds = &seconds
		}
		return err
	})
	s.read("cpu", &missing, func() (err error) {
		st.CPU, err = s.readCPU(ctx)
		return err
	})
	s.read("memory", &missing, func() error {
		m, err := mem.VirtualMemoryWithContext(ctx)
		if err == nil && m.Total == 0 {
			err = errors.New("the host has no memory size")
		}
		if err == nil {
			st.Memory = &memoryStatus{Total: m.Total, Available: m.Available, Used: m.Used, UsedPercent: round1(m.UsedPercent)}
		}
		return err
	})
	s.read("swap", &missing, func() error {
		m, err := mem.SwapMemoryWithContext(ctx)
		if err == nil {
			st.Swap = &swapStatus{Total: m.Total, Used: m.Used, Free: m.Free, UsedPercent: round1(m.UsedPercent)}
		}
		return err
	})
	s.read("load", &missing, func() error {
		l, err := load.AvgWithContext(ctx)
		if err == nil {
			st.Load = &loadStatus{Load1: l.Load1, Load5: l.Load5, Load15: l.Load15}
		}
		return err
	})
	st.Unavailable = missing
	return st
}

// cpuCounters are the seconds of the cores at the previous sample, by core name.
type cpuCounters map[string]cpu.TimesStat

func (s *sampler) readCPU(ctx context.Context) (*cpuStatus, error) {
	times, err := cpu.TimesWithContext(ctx, true)
	if err != nil {
		return nil, err
	}
	if len(times) == 0 { // gopsutil hides the reason
		return nil, errors.New("the host has no CPU times")
	}
	st := &cpuStatus{PerCore: make([]*float64, len(times)), Cores: len(times)}
	next := make(cpuCounters, len(times))
	var busy, total float64
	for i, t := range times {
		next[t.CPU] = t
		// A core that was off at the previous sample has no counters to compare.
		if before, ok := s.cpu[t.CPU]; ok {
			b, all := cpuDelta(before, t)
			st.PerCore[i] = share(b, all)
			busy, total = busy+b, total+all
		}
	}
	st.Percent = share(busy, total)
	s.cpu = next
	return st, nil
}

// cpuDelta returns the busy and the whole time between two readings, in seconds.
// Guest time is part of user time. A single counter may decrease a little (iowait
// does, see proc_stat(5)); that counts as no change.
func cpuDelta(a, b cpu.TimesStat) (busy, all float64) {
	step := func(a, b float64) float64 { return max(b-a, 0) }
	busy = step(a.User, b.User) + step(a.System, b.System) + step(a.Nice, b.Nice) +
		step(a.Irq, b.Irq) + step(a.Softirq, b.Softirq) + step(a.Steal, b.Steal)
	return busy, busy + step(a.Idle, b.Idle) + step(a.Iowait, b.Iowait)
}

// share returns a percentage; nil if the whole is 0.
func share(part, whole float64) *float64 {
	if whole <= 0 {
		return nil
	}
	return round1(100 * part / whole)
}
