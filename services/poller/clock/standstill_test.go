package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

// A standstill that has just ended is known before the pulse beats again, and
// counted once.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pulse
		if p.Stood() != 0 || (*Pulse)(nil).Stood() != 0 {
			t.Error("a standstill before the first beat")
		}
		p.beat(time.Now())
		time.Sleep(pulseBeat + pulseSlack)
		if d := p.Stood(); d != 0 {
			t.Errorf("stood still for %v, which is slack", d)
		}
		time.Sleep(3*time.Second - pulseSlack)
		if d := p.Stood(); d != 3*time.Second {
			t.Errorf("stood still for %v before the beat", d)
		}
		if d := p.beat(time.Now()); d != 3*time.Second || p.Stood() != d {
			t.Errorf("stood still for %v, %v in all", d, p.Stood())
		}
		time.Sleep(pulseBeat)
		if d := p.beat(time.Now()); d != 0 || p.Stood() != 3*time.Second {
			t.Errorf("stood still for %v more, %v in all", d, p.Stood())
		}
	})
}
