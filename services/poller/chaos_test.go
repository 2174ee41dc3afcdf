//go:build chaos

package poller

import (
	"testing"
)

// TestChaosFollow cuts the pollers of a walk off some fifty times, once where
// positions have ids and the chain is reorganised, once where they have none.
func TestChaosFollow(t *testing.T) {
	t.Run("with ids", func(t *testing.T) { followKills(t, true, 50) })
	t.Run("without", func(t *testing.T) { followKills(t, false, 50) })
}
