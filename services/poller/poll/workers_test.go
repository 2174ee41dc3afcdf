package poll

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w Workers
		var done atomic.Int64
		for range 100 {
			w.Do(func() {
				time.Sleep(time.Second) // all at once, and none waits for another
				done.Add(1)
			})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n, idle := done.Load(), len(w.idle); n != 100 || idle != maxIdle {
			t.Errorf("%d of 100 done, %d workers wait for more, want %d", n, idle, maxIdle)
		}
		w.Do(func() {
			w.Do(func() { done.Add(1) })
			done.Add(1)
		})
		synctest.Wait()
		if n, idle := done.Load(), len(w.idle); n != 102 || idle != maxIdle {
			t.Errorf("%d of 102 done, %d workers wait for more, want %d", n, idle, maxIdle)
		}
		w.Do(func() { time.Sleep(time.Second); done.Add(1) })
		w.Wait()
		w.Do(func() { done.Add(1) })
		synctest.Wait()
		if n := done.Load(); n != 103 {
			t.Errorf("%d done, want 103: all that came before wait, and nothing after", n)
		}
	})
}
