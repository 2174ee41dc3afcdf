package daemon

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Hangups returns a channel that receives every SIGHUP until stop is called. A
// SIGHUP that comes because the process's terminal was closed calls end instead:
// without a terminal nobody can end the process. A process that was started with
// SIGHUP ignored, for example by nohup, goes on.
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
			default: // one waiting hangup is enough
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
