package daemon

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Hangups tells of every SIGHUP, until stop is called. One that comes because
// the process's terminal was closed calls end instead: nobody is left to end it
// then. What was started with SIGHUP ignored, as by nohup, survives that.
func Hangups(end func()) (hangups <-chan struct{}, stop func()) {
	attached := !signal.Ignored(syscall.SIGHUP) && hasTerminal()
	signals, out, done := make(chan os.Signal, 1), make(chan struct{}, 1), make(chan struct{})
	var wg sync.WaitGroup
	signal.Notify(signals, syscall.SIGHUP)
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-signals:
			}
			if attached && !hasTerminal() {
				end()
				continue
			}
			select {
			case out <- struct{}{}:
			default: // one that waits is enough
			}
		}
	})
	return out, func() {
		signal.Stop(signals)
		close(done)
		wg.Wait()
	}
}

func hasTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
