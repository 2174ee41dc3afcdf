package hostrpc

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shirou/gopsutil/v4/common"
	"github.com/shirou/gopsutil/v4/cpu"
	psnet "github.com/shirou/gopsutil/v4/net"
)

// TestSystemStatus reads the host on which the test runs.
func TestSystemStatus(t *testing.T) {
	s := start(t, Options{})
	have := result[systemStatus](s, "system.status", "")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if have.Hostname != name || have.OS == "" || have.Kernel == "" || len(have.Unavailable) != 0 {
		t.Errorf("have %+v, want the host's names and nothing unavailable", have)
	}
	if have.UptimeSeconds == nil || *have.UptimeSeconds == 0 || have.BootTime == nil || have.BootTime.After(time.Now()) {
		t.Errorf("have uptime %v, boot %v", have.UptimeSeconds, have.BootTime)
	}
	if have.CPU == nil || have.CPU.Cores < 1 || len(have.CPU.PerCore) != have.CPU.Cores || have.CPU.Percent == nil {
		t.Fatalf("have cpu %+v, want a percentage for every core from the first answer on", have.CPU)
	}
	for i, p := range append(have.CPU.PerCore, have.CPU.Percent) {
		if p == nil || *p < 0 || *p > 100 || *p != math.Round(*p*10)/10 {
			t.Errorf("core %d: have %v, want 0 to 100 with one decimal", i, p)
		}
	}
	m := have.Memory
	if m == nil || m.Total == 0 || m.Available > m.Total || m.Used > m.Total || m.UsedPercent == nil ||
		*m.UsedPercent <= 0 || *m.UsedPercent > 100 {
		t.Errorf("have memory %+v", m)
	}
	if have.Swap == nil || have.Swap.UsedPercent == nil || have.Load == nil {
		t.Errorf("have swap %+v, load %+v", have.Swap, have.Load)
	}
	boot := *have.BootTime
	first := s.sampler.latest.Load()
	eventually(t, "the sampler goes on", func() bool { return s.sampler.latest.Load().at.Sub(first.at) > sampleEvery })
	if have := *result[systemStatus](s, "system.status", "").BootTime; !have.Equal(boot) {
		t.Errorf("the boot time moved from %s to %s", boot, have)
	}
}

// TestCallersDoNotMatter checks that between two samples every caller gets the
// same answer, rates included.
func TestCallersDoNotMatter(t *testing.T) {
	s := start(t, Options{})
	result[systemStatus](s, "system.status", "")
	for range 50 {
		before := s.sampler.latest.Load()
		a, b := result[systemStatus](s, "system.status", ""), result[networkList](s, "network.list", "")
		c, d := result[systemStatus](s, "system.status", ""), result[networkList](s, "network.list", "")
		if before != s.sampler.latest.Load() {
			continue // there was a new sample between the calls
		}
		if !reflect.DeepEqual(a, c) || !reflect.DeepEqual(b, d) {
			t.Fatalf("two calls of one second differ:\n%+v\n%+v\n%+v\n%+v", a, c, b, d)
		}
		return
	}
	t.Fatal("never four calls within a second")
}

// TestNetworkRates moves bytes over loopback until network.list shows them.
func TestNetworkRates(t *testing.T) {
	s := start(t, Options{})
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	source, err := net.Dial("udp", sink.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	eventually(t, "loopback has addresses, counters and a rate", func() bool {
		if _, err := source.Write(make([]byte, 8<<10)); err != nil {
			t.Fatal(err)
		}
		for _, nic := range result[networkList](s, "network.list", "").Interfaces {
			if strings.Contains(strings.Join(nic.Addresses, " "), "127.0.0.1/8") {
				return nic.Up != nil && *nic.Up && nic.RxBytes != nil && *nic.RxBytes > 0 && nic.TxBytes != nil &&
					nic.RxBytesPerSecond != nil && *nic.RxBytesPerSecond > 1000 && nic.TxBytesPerSecond != nil &&
					*nic.TxBytesPerSecond > 1000
			}
		}
		return false
	})
}

// procOf makes gopsutil read another /proc, as on a host that refuses some of it.
func procOf(t *testing.T, files map[string]string) (ctx context.Context, dir string) {
	t.Helper()
	dir = t.TempDir()
	writeProc(t, dir, files)
	return context.WithValue(t.Context(), common.EnvKey, common.EnvMap{common.HostProcEnvKey: dir}), dir
}

func writeProc(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDegrades checks that a refused reading is null and named, that the others
// stay, and that it comes back by itself.
func TestDegrades(t *testing.T) {
	ctx, dir := procOf(t, map[string]string{"loadavg": "0.50 0.25 0.10 1/2 3\n"})
	s := startWith(t, ctx, Options{})
	have := result[systemStatus](s, "system.status", "")
	if have.CPU != nil || have.Memory != nil || have.Swap != nil || have.BootTime != nil {
		t.Errorf("have %+v, want no cpu, memory, swap and boot time", have)
	}
	if have.Hostname == "" || have.Load == nil || *have.Load != (loadStatus{0.5, 0.25, 0.1}) {
		t.Errorf("have %+v, want the readings that work", have)
	}
	var fields []string
	for _, u := range have.Unavailable {
		if u.Reason == "" {
			t.Errorf("%s has no reason", u.Field)
		}
		fields = append(fields, u.Field)
	}
	if have, want := strings.Join(fields, " "), "bootTime cpu memory swap"; have != want {
		t.Errorf("have unavailable %q, want %q", have, want)
	}
	list := result[networkList](s, "network.list", "")
	if len(list.Interfaces) == 0 || list.Interfaces[0].RxBytes != nil || len(list.Unavailable) != 1 ||
		list.Unavailable[0].Field != "counters" {
		t.Errorf("have %+v, want interfaces without counters", list)
	}
	_, text, _ := s.post(`{"jsonrpc":"2.0","method":"process.top","id":1}`)
	if _, fail := failure(t, text); fail.Code != codeInternal || !strings.Contains(fail.Data, "no process") {
		t.Errorf("have %s, want -32603 with the reason", text)
	}

	writeProc(t, dir, map[string]string{"stat": "cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 10 0 10 80 0 0 0 0 0 0\n"})
	eventually(t, "cpu is back", func() bool { return result[systemStatus](s, "system.status", "").CPU != nil })
	// The counters of the host do not change: there is a core, but no percentage.
	if have := result[systemStatus](s, "system.status", "").CPU; have.Cores != 1 || have.Percent != nil {
		t.Errorf("have %+v, want one core and no percentage", have)
	}
	logs := s.logs.String()
	if n := strings.Count(logs, "host reading unavailable\" reading=cpu"); n != 1 {
		t.Errorf("have %d lines about cpu lost, want 1", n)
	}
	if n := strings.Count(logs, "host reading available again\" reading=cpu"); n != 1 {
		t.Errorf("have %d lines about cpu back, want 1", n)
	}
}

// TestStuckSampler checks that there are no answers when there are no new
// samples.
func TestStuckSampler(t *testing.T) {
	s := start(t, Options{})
	result[systemStatus](s, "system.status", "")
	old := *s.sampler.latest.Load()
	old.at = time.Now().Add(-time.Minute)
	stuck := newSampler(s.log, s.metrics)
	stuck.latest.Store(&old)
	close(stuck.ready)
	if _, err := stuck.status(t.Context()); err == nil || !strings.Contains(err.Error(), "1m0s old") {
		t.Errorf("have %v, want an error with the age of the sample", err)
	}
	if _, err := stuck.network(t.Context()); err == nil {
		t.Error("network.list answers from an old sample")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newSampler(s.log, s.metrics).status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("have %v, want the caller's cancel", err)
	}
}

// TestSamplerPace checks for one sample a second with any number of callers, and
// an early second one.
func TestSamplerPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSampler(slog.New(slog.DiscardHandler), must(newMetrics(nil)))
		ctx, cancel := context.WithCancel(t.Context())
		s.sample(ctx)
		began := s.latest.Load().at
		done := make(chan struct{})
		go func() { defer close(done); s.run(ctx) }()
		if _, err := s.status(ctx); err != nil || time.Since(began) != firstWindow {
			t.Errorf("have the first rates after %s (%v), want %s", time.Since(began), err, firstWindow)
		}
		time.Sleep(10*time.Second + 500*time.Millisecond - firstWindow)
		synctest.Wait()
		if s.count != 12 || s.latest.Load().at.Sub(began) != 10*time.Second {
			t.Errorf("have %d samples, the last after %s, want 12 and 10s", s.count, s.latest.Load().at.Sub(began))
		}
		cancel()
		<-done
	})
}

func TestCPUDelta(t *testing.T) {
	a := cpu.TimesStat{User: 10, System: 5, Nice: 1, Idle: 100, Iowait: 4, Irq: 1, Softirq: 1, Steal: 1, Guest: 7,
		GuestNice: 1}
	b := cpu.TimesStat{User: 12, System: 6, Nice: 2, Idle: 103, Iowait: 3, Irq: 1.5, Softirq: 1.25, Steal: 1.25, Guest: 9,
		GuestNice: 2}
	// Guest time is in user time; iowait decreased and counts as no change.
	if busy, all := cpuDelta(a, b); busy != 5 || all != 8 {
		t.Errorf("have %v of %v, want 5 of 8", busy, all)
	}
	if have := share(1, 3); have == nil || *have != 33.3 {
		t.Errorf("have %v, want 33.3", have)
	}
	if share(0, 0) != nil || round1(math.NaN()) != nil || round1(math.Inf(1)) != nil {
		t.Error("what is no number must be null")
	}
}

func TestPerSecond(t *testing.T) {
	for _, c := range []struct {
		before, after uint64
		window        time.Duration
		want          *uint64
	}{
		{100, 400, 2 * time.Second, new(uint64(150))},
		{100, 101, 300 * time.Millisecond, new(uint64(3))},
		{100, 100, time.Second, new(uint64(0))},
		{100, 99, time.Second, nil}, // reset
		{100, 200, 0, nil},
	} {
		have := perSecond(c.before, c.after, c.window)
		if (have == nil) != (c.want == nil) || (have != nil && *have != *c.want) {
			t.Errorf("%d to %d in %s: have %v, want %v", c.before, c.after, c.window, have, c.want)
		}
	}
}

func TestReadPanics(t *testing.T) {
	logs := new(logBuffer)
	s := newSampler(slog.New(slog.NewTextHandler(logs, nil)), must(newMetrics(nil)))
	var missing []unavailable
	if s.read("cpu", &missing, func() error { var none []psnet.IOCountersStat; _ = none[3]; return nil }) {
		t.Error("a panic counts as a reading")
	}
	if len(missing) != 1 || !strings.Contains(missing[0].Reason, "panicked") ||
		!strings.Contains(logs.String(), "reading=cpu") {
		t.Errorf("have %v and log %s, want the panic in both", missing, logs)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
