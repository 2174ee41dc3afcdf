package hostrpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

const (
	byCPU    = "cpu"
	byMemory = "memory"

	maxProcesses = 50

	// Reading every process is the expensive part of this server: it is done only
	// while there are callers, and not too often.
	processEvery = 2 * time.Second
	processFor   = time.Minute
	// processTooOld is the age from which a table is not used and a new one is
	// waited for.
	processTooOld = processEvery + 2*sampleEvery
)

// processTop is the answer of process.top.
type processTop struct {
	Processes     []processInfo `json:"processes"`
	Count         int           `json:"count"`         // all processes that could be read
	WindowSeconds float64       `json:"windowSeconds"` // the time over which cpuPercent is measured
}

// processInfo is one process. CPUPercent is relative to one core, as in top(1):
// 250 is two and a half cores.
type processInfo struct {
	PID         int32    `json:"pid"`
	Name        string   `json:"name"`
	CPUPercent  *float64 `json:"cpuPercent"`
	MemoryBytes uint64   `json:"memoryBytes"` // resident

	share float64 // CPUPercent before rounding, for sorting
}

// processTable is one sample, sorted for answers. It is never changed.
type processTable struct {
	at       time.Time
	window   time.Duration // since the sample before, 0 when there is none
	count    int
	byCPU    []processInfo
	byMemory []processInfo
	err      error
}

// processUse is one reading of a process.
type processUse struct {
	pid     int32
	seconds float64 // CPU time so far
	rss     uint64
}

// processes samples on demand: top records that there is a caller, the sampler's
// goroutine calls tick.
type processes struct {
	wake chan struct{} // capacity 1; makes the sampler call tick now

	// Tests replace these.
	readAll func(context.Context) ([]processUse, error)
	name    func(context.Context, int32) (string, error)

	read func(string, *[]unavailable, func() error) bool // sampler.read

	// Only the sampler's goroutine uses these.
	before map[int32]float64
	last   time.Time

	mu      sync.Mutex
	asked   time.Time
	table   *processTable
	changed chan struct{} // closed when table changes
}

var bootTimeOnce sync.Once

func newProcesses(read func(string, *[]unavailable, func() error) bool) *processes {
	// Without this gopsutil reads /proc/stat for every process.
	bootTimeOnce.Do(func() { process.EnableBootTimeCache(true) })
	return &processes{
		wake:    make(chan struct{}, 1),
		readAll: readProcesses,
		name:    processName,
		read:    read,
		changed: make(chan struct{}),
	}
}

// top answers from the latest table. Without a recent caller it waits for a new
// table, two seconds at most unless the host is slow.
func (p *processes) top(ctx context.Context, limit int, by string) (processTop, error) {
	for {
		p.mu.Lock()
		p.asked = time.Now()
		table, changed := p.table, p.changed
		p.mu.Unlock()
		if table != nil && table.window > 0 && time.Since(table.at) <= processTooOld {
			return table.top(limit, by)
		}
		select {
		case p.wake <- struct{}{}:
		default: // the sampler will wake already
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return processTop{}, fmt.Errorf("wait for a reading of the processes: %w", ctx.Err())
		}
	}
}

func (t *processTable) top(limit int, by string) (processTop, error) {
	if t.err != nil {
		return processTop{}, fmt.Errorf("read processes: %w", t.err)
	}
	sorted := t.byCPU
	if by == byMemory {
		sorted = t.byMemory
	}
	return processTop{
		Processes:     sorted[:min(limit, len(sorted))],
		Count:         t.count,
		WindowSeconds: math.Round(t.window.Seconds()*10) / 10,
	}, nil
}

// tick samples if there are callers and it is time.
func (p *processes) tick(ctx context.Context) {
	now := time.Now()
	p.mu.Lock()
	asked := p.asked
	p.mu.Unlock()
	// The slack allows for a ticker that is a little early: otherwise every 2 s
	// would become every 3 s.
	if now.Sub(asked) > processFor || now.Sub(p.last) < processEvery-sampleEvery/10 {
		return
	}
	p.sample(ctx)
}

func (p *processes) sample(ctx context.Context) {
	now := time.Now()
	table := &processTable{at: now}
	if !p.last.IsZero() {
		table.window = now.Sub(p.last)
	}
	var uses []processUse
	var missing []unavailable
	if p.read("processes", &missing, func() (err error) {
		uses, err = p.readAll(ctx)
		return err
	}) {
		p.fill(ctx, table, uses)
	} else {
		table.err = errors.New(missing[0].Reason)
		p.before = nil // the next window begins without counters
	}
	p.last = now
	p.mu.Lock()
	p.table = table
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
}

// fill computes the shares and keeps the first processes of both orders.
func (p *processes) fill(ctx context.Context, t *processTable, uses []processUse) {
	t.count = len(uses)
	all := make([]processInfo, len(uses))
	next := make(map[int32]float64, len(uses))
	for i, u := range uses {
		next[u.pid] = u.seconds
		all[i] = processInfo{PID: u.pid, MemoryBytes: u.rss}
		if t.window <= 0 || p.before == nil {
			continue
		}
		used := u.seconds - p.before[u.pid]
		if used < 0 { // another process has the pid now; it is younger than the window
			used = u.seconds
		}
		all[i].share = 100 * used / t.window.Seconds()
		all[i].CPUPercent = round1(all[i].share)
	}
	p.before = next

	names := make(map[int32]string)
	t.byCPU = p.head(ctx, all, names, func(a, b processInfo) int {
		return cmp.Or(cmp.Compare(b.share, a.share), cmp.Compare(b.MemoryBytes, a.MemoryBytes), cmp.Compare(a.PID, b.PID))
	})
	t.byMemory = p.head(ctx, all, names, func(a, b processInfo) int {
		return cmp.Or(cmp.Compare(b.MemoryBytes, a.MemoryBytes), cmp.Compare(a.PID, b.PID))
	})
}

// head returns the first maxProcesses in order. Only these are asked for their
// names. Those that have ended are left out.
func (p *processes) head(ctx context.Context, all []processInfo, names map[int32]string,
	order func(a, b processInfo) int) []processInfo {
	slices.SortFunc(all, order)
	head := make([]processInfo, 0, min(len(all), maxProcesses))
	for _, info := range all {
		if len(head) == maxProcesses {
			break
		}
		name, ok := names[info.PID]
		if !ok {
			var err error
			if name, err = p.name(ctx, info.PID); err != nil {
				name = ""
			}
			names[info.PID] = name
		}
		if name == "" {
			continue
		}
		info.Name = name
		head = append(head, info)
	}
	return head
}

// readProcesses reads two small files per process on Linux. It skips processes
// that end meanwhile, and processes of others if the host hides them.
func readProcesses(ctx context.Context) ([]processUse, error) {
	pids, err := process.PidsWithContext(ctx)
	if err != nil {
		return nil, err
	}
	uses := make([]processUse, 0, len(pids))
	var refused error
	for _, pid := range pids {
		one := process.Process{Pid: pid}
		times, err := one.TimesWithContext(ctx)
		if err != nil {
			refused = err
			continue
		}
		memory, err := one.MemoryInfoWithContext(ctx)
		if err != nil {
			refused = err
			continue
		}
		uses = append(uses, processUse{pid: pid, seconds: times.User + times.System, rss: memory.RSS})
	}
	if len(uses) == 0 { // not even this process
		return nil, cmp.Or(refused, errors.New("the host shows no process"))
	}
	return uses, nil
}

func processName(ctx context.Context, pid int32) (string, error) {
	one := process.Process{Pid: pid}
	return one.NameWithContext(ctx)
}
