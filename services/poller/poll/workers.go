package poll

import (
	"sync"
)

// Workers do what the polls of a source have to do: calls, publishes, and the
// thinking between them. There are as many as work at once, and a few that wait
// for work: a goroutine that has made a call has the stack for the next one, and
// between its ticks a poll needs none.
type Workers struct {
	mu   sync.Mutex
	idle []chan func() // who was last to become idle works first
	over bool
	all  sync.WaitGroup
}

// maxIdle bounds the workers that wait for work.
const maxIdle = 4

// Do has f done. It does not wait, and may be called under any mutex. After Wait it does
// nothing.
func (w *Workers) Do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch last := len(w.idle) - 1; {
	case w.over:
	case last >= 0:
		w.idle[last] <- f // there is room
		w.idle = w.idle[:last]
	default:
		w.all.Go(func() { w.work(f) })
	}
}

func (w *Workers) work(f func()) {
	next := make(chan func(), 1)
	for ok := true; ok; f, ok = <-next {
		f()
		w.mu.Lock()
		if w.over || len(w.idle) == maxIdle {
			w.mu.Unlock()
			return
		}
		w.idle = append(w.idle, next)
		w.mu.Unlock()
	}
}

// Wait lets the workers finish.
func (w *Workers) Wait() {
	w.mu.Lock()
	w.over = true
	for _, next := range w.idle {
		close(next)
	}
	w.idle = nil
	w.mu.Unlock()
	w.all.Wait()
}
