package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestPulse checks that a standstill that has just ended counts before the next beat,
// and counts once.
func TestPulse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p Pulse
		if p.Paused() != 0 || (*Pulse)(nil).Paused() != 0 {
			t.Error("a standstill before the first beat")
		}
		p.beat(time.Now())
		time.Sleep(pulseInterval + pulseSlack)
		if d := p.Paused(); d != 0 {
			t.Errorf("stood still for %v, which is slack", d)
		}
		time.Sleep(3*time.Second - pulseSlack)
		if d := p.Paused(); d != 3*time.Second {
			t.Errorf("stood still for %v before the beat", d)
		}
		if d := p.beat(time.Now()); d != 3*time.Second || p.Paused() != d {
			t.Errorf("stood still for %v, %v in all", d, p.Paused())
		}
		time.Sleep(pulseInterval)
		if d := p.beat(time.Now()); d != 0 || p.Paused() != 3*time.Second {
			t.Errorf("stood still for %v more, %v in all", d, p.Paused())
		}
	})
}
