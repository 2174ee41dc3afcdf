//go:build chaos

package e2e

import (
	"os"
	"testing"
	"time"
)

// TestChaosPollers takes pollers away at random for CHAOS, 3 minutes if that is
// not set.
func TestChaosPollers(t *testing.T) {
	length := 3 * time.Minute
	if text := os.Getenv("CHAOS"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("CHAOS: %v", err)
		}
	}
	newRuin(t).run(length)
}
