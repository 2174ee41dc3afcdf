//go:build soak

package e2e

import (
	"testing"
	"time"
)

// TestStormOf10000: ten thousand clients of a gateway that is killed are all
// back on another within 10 s (on two cores, with the clients beside it).
func TestStormOf10000(t *testing.T) {
	if took := storm(t, 10_000, 2*time.Minute); took > 10*time.Second {
		t.Errorf("it took %v, want 10 s at most", took)
	}
}
