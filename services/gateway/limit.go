package gateway

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/pollcast/pollcast/pkg/config"
)

// memory returns the budget that a configuration means: 0 stands for half of what
// the container, or else the machine, has.
func (c *Config) memory() config.Size {
	if c.MemoryBudget > 0 {
		return c.MemoryBudget
	}
	return max(minBudget, min(available()/2, maxBudget))
}

// runtimeCost is the part of memory.ProcessCost that Go's runtime does not count:
// the program's own pages.
const runtimeCost = 16 << 20

// LimitMemory has the runtime collect garbage early enough for the whole
// process to stay within the budget, unless GOMEMLIMIT is set. It is
// for the main of a process that is a gateway and nothing else.
func LimitMemory(c Config) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(c.memory()) - runtimeCost)
	}
}

// available is how much memory the process may use.
func available() config.Size {
	least := unknownMemory
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
				if kb, err := strconv.ParseInt(f[1], 10, 64); err == nil {
					least = config.Size(kb << 10)
				}
			}
		}
	}
	// Version 2 and 1, as a container sees its own.
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(file); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
				least = min(least, config.Size(n))
			}
		}
	}
	return least
}
