//go:build soak

package e2e

import (
	"testing"
	"time"
)

// TestStormOf10000 checks that ten thousand clients of a killed gateway are all
// connected to another one within 10 s (on two cores, which the clients share).
func TestStormOf10000(t *testing.T) {
	if took := storm(t, 10_000, 2*time.Minute); took > 10*time.Second {
		t.Errorf("it took %v, want 10 s at most", took)
	}
}
