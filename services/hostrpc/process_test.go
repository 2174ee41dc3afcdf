package hostrpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestProcessTop uses CPU time until this process is in the list.
func TestProcessTop(t *testing.T) {
	s := start(t, Options{})
	self := int32(os.Getpid())
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() { // use CPU time
		}
	}()
	eventually(t, "this process shows its CPU use", func() bool {
		top := result[processTop](s, "process.top", `{"limit":50}`)
		i := slices.IndexFunc(top.Processes, func(p processInfo) bool { return p.PID == self })
		return i >= 0 && top.Processes[i].CPUPercent != nil && *top.Processes[i].CPUPercent > 5
	})
	stop.Store(true)
	<-done

	top := result[processTop](s, "process.top", `{"limit":2,"by":"memory"}`)
	if len(top.Processes) != 2 || top.Count < 2 || top.WindowSeconds <= 0 {
		t.Fatalf("have %+v, want 2 processes of several", top)
	}
	if a, b := top.Processes[0], top.Processes[1]; a.MemoryBytes < b.MemoryBytes || a.MemoryBytes == 0 || a.Name == "" {
		t.Errorf("have %+v before %+v, want the larger first, with a name", a, b)
	}
	if top := result[processTop](s, "process.top", ""); len(top.Processes) > 10 {
		t.Errorf("have %d processes without a limit, want at most 10", len(top.Processes))
	}
}

// hostOf is a simulated host.
type hostOf struct {
	looks atomic.Int32
	uses  []processUse
	err   error
}

func (h *hostOf) processes() *processes {
	s := newSampler(slog.New(slog.DiscardHandler), must(newMetrics(nil)))
	s.processes.readAll = func(context.Context) ([]processUse, error) {
		h.looks.Add(1)
		return slices.Clone(h.uses),
			h.err
	}
	s.processes.name = func(_ context.Context, pid int32) (string, error) {
		if pid == 99 {
			return "", errors.New("it ended")
		}
		return fmt.Sprint("p", pid), nil
	}
	return s.processes
}

func pids(list []processInfo) (all []int32) {
	for _, p := range list {
		all = append(all, p.PID)
	}
	return all
}

// TestProcessPace checks that there is no reading without a caller, and at most
// one in two seconds for any number of callers.
func TestProcessPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hostOf{uses: []processUse{{pid: 1, seconds: 1, rss: 1}}}
		s := newSampler(slog.New(slog.DiscardHandler), must(newMetrics(nil)))
		p := h.processes()
		s.processes = p
		ctx, cancel := context.WithCancel(t.Context())
		s.sample(ctx)
		done := make(chan struct{})
		go func() { defer close(done); s.run(ctx) }()

		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if h.looks.Load() != 1 {
			t.Errorf("have %d readings without a caller, want the first only", h.looks.Load())
		}
		began := time.Now()
		if _, err := p.top(ctx, 10, byCPU); err != nil || time.Since(began) != 0 || h.looks.Load() != 2 {
			t.Errorf("have %d looks after %s, %v; want one at once", h.looks.Load(), time.Since(began), err)
		}
		for range 200 {
			time.Sleep(50 * time.Millisecond)
			if _, err := p.top(ctx, 10, byCPU); err != nil {
				t.Fatal(err)
			}
		}
		if h.looks.Load() < 6 || h.looks.Load() > 7 {
			t.Errorf("have %d looks after 10s of asking, want one in 2s", h.looks.Load())
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if h.looks.Load() > 7+31 || h.looks.Load() < 7+28 {
			t.Errorf("have %d looks after the last one asked, want them to end within a minute", h.looks.Load())
		}
		cancel()
		<-done
	})
}

func TestProcessShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hostOf{uses: []processUse{{1, 10, 500}, {2, 20, 400}, {3, 30, 900}}}
		p := h.processes()
		p.sample(t.Context())
		if have := p.table.byCPU[0].CPUPercent; have != nil {
			t.Errorf("have %v before there is a window, want null", *have)
		}
		time.Sleep(2 * time.Second)
		// 1 used a quarter of a core, 2 nothing; 3 and 4 are other processes now;
		// 99 ended before its name could be read.
		h.uses = []processUse{{1, 10.5, 500}, {2, 20, 400}, {3, 1, 100}, {4, 5, 50}, {99, 3, 9999}}
		p.sample(t.Context())
		if have, want := pids(p.table.byCPU), []int32{4, 3, 1, 2}; !slices.Equal(have, want) {
			t.Errorf("by cpu: have %v, want %v", have, want)
		}
		if have, want := pids(p.table.byMemory), []int32{1, 2, 3, 4}; !slices.Equal(have, want) {
			t.Errorf("by memory: have %v, want %v", have, want)
		}
		for i, want := range []float64{250, 50, 25, 0} {
			if have := p.table.byCPU[i].CPUPercent; have == nil || *have != want {
				t.Errorf("pid %d: have %v, want %v", p.table.byCPU[i].PID, have, want)
			}
		}
		if p.table.count != 5 || p.table.window != 2*time.Second {
			t.Errorf("have %d processes over %s, want 5 over 2s", p.table.count, p.table.window)
		}

		h.err = errors.New("not today")
		time.Sleep(2 * time.Second)
		p.sample(t.Context())
		if _, err := p.top(t.Context(), 1, byCPU); err == nil || !strings.Contains(err.Error(), "not today") {
			t.Errorf("have %v, want the host's reason", err)
		}
		// The window that begins with a failure has no shares.
		h.err = nil
		time.Sleep(2 * time.Second)
		p.sample(t.Context())
		top, err := p.top(t.Context(), 1, byMemory)
		if err != nil || len(top.Processes) != 1 || top.Processes[0].CPUPercent != nil {
			t.Errorf("have %+v, %v, want no percentage", top, err)
		}
	})
}

// TestProcessHeads checks that of many processes only a few are kept and named.
func TestProcessHeads(t *testing.T) {
	h := new(hostOf)
	for pid := range int32(5000) {
		h.uses = append(h.uses, processUse{pid: pid + 100, rss: uint64(pid)})
	}
	p := h.processes()
	named := 0
	name := p.name
	p.name = func(ctx context.Context, pid int32) (string, error) { named++; return name(ctx, pid) }
	p.sample(t.Context())
	if len(p.table.byCPU) != maxProcesses || len(p.table.byMemory) != maxProcesses || named > 2*maxProcesses {
		t.Errorf("have %d and %d, %d named", len(p.table.byCPU), len(p.table.byMemory), named)
	}
	if have := p.table.byMemory[0].PID; have != 5099 {
		t.Errorf("have pid %d first, want 5099", have)
	}
}

func TestProcessTopCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := new(hostOf).processes().top(ctx, 1, byCPU); !errors.Is(err, context.Canceled) {
		t.Errorf("have %v, want the caller's cancel", err)
	}
}
