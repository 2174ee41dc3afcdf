//go:build chaos

package e2e

import (
	"os"
	"testing"
	"time"
)

// TestChaosPollers stops pollers at random for the time in CHAOS, 3 minutes by
// default.
func TestChaosPollers(t *testing.T) {
	length := 3 * time.Minute
	if text := os.Getenv("CHAOS"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("CHAOS: %v", err)
		}
	}
	newPollerChaos(t).run(length)
}
