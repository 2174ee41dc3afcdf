package gateway

import (
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/pollcast/pollcast/pkg/config"
)

// Config is the gateway's section of the configuration file.
type Config struct {
	Listen          string        `yaml:"listen" doc:"address for clients: WebSocket, HTTP and the console"`
	Operations      string        `yaml:"operations" doc:"address for operations: /metrics /status /healthz /readyz /debug/pprof; empty: none"`
	AllowedOrigins  []string      `yaml:"allowedOrigins" doc:"origins of other sites whose pages may connect, such as https://app.example.com; * allows every site"`
	MaxConnections  int           `yaml:"maxConnections" doc:"connections this gateway holds; further ones are closed with 1013"`
	AcceptRate      int           `yaml:"acceptRate" doc:"connections taken in per second, with a burst of a quarter; those that would wait longer than 2s for their turn are answered 503 with Retry-After"`
	MemoryBudget    config.Size   `yaml:"memoryBudget" doc:"memory for connections, feeds, values and history together, with 24MiB for the process itself; 0: half of what the container or machine has, 64MiB to 8GiB. Above 75% of it new connections are closed with 1013, above 85% the slowest with 4002"`
	MaxTopics       int           `yaml:"maxTopicsPerConnection" doc:"topics and patterns one connection may hold"`
	MaxStreamTopics int           `yaml:"maxTopics" doc:"topics this gateway serves; those beyond are refused and logged"`
	History         int           `yaml:"history" doc:"events kept in memory, at most 64MiB and an eighth of memoryBudget, for clients that resume; older ones are read back from the stream"`
	MaxMessage      config.Size   `yaml:"maxMessage" doc:"longest message from a client; longer ones close the connection with 1009"`
	Compression     bool          `yaml:"compression" doc:"compress what is sent to clients that offer permessage-deflate, once per event; costs CPU"`
	MaxLag          config.Size   `yaml:"maxLag" doc:"how far a client may be behind before it is closed with 4002"`
	MaxLagTime      time.Duration `yaml:"maxLagTime" doc:"for how long a client may be behind before it is closed with 4002"`
	FrameRate       int           `yaml:"frameRate" doc:"frames per second a client may send, with a burst of twice as many"`
	PingInterval    time.Duration `yaml:"pingInterval" doc:"how often each connection is pinged"`
	DrainTime       time.Duration `yaml:"drainTime" doc:"over how long connections are closed when the gateway stops"`
}

// DefaultConfig returns the configuration that an empty file means.
func DefaultConfig() Config {
	return Config{
		Listen:          ":12080",
		Operations:      "127.0.0.1:12081",
		MaxConnections:  50_000,
		AcceptRate:      2_000,
		MaxTopics:       256,
		MaxStreamTopics: 200_000,
		History:         65_536,
		MaxMessage:      64 << 10,
		MaxLag:          1 << 20,
		MaxLagTime:      30 * time.Second,
		FrameRate:       50,
		PingInterval:    30 * time.Second,
		DrainTime:       10 * time.Second,
	}
}

// Check reports every mistake in the configuration.
func (c *Config) Check(report func(path, problem, fix string)) {
	addr := func(path, v string) {
		if err := config.CheckAddress(v); err != nil {
			report(path, err.Error(), "write host:port or :port, such as :12080")
		}
	}
	addr("listen", c.Listen)
	if c.Operations != "" {
		addr("operations", c.Operations)
		if _, port, _ := net.SplitHostPort(c.Listen); c.Operations == c.Listen && port != "0" {
			report("operations", "it is the address for clients as well", "use another port; clients must not reach this one")
		}
	}
	for i, o := range c.AllowedOrigins {
		if u, err := url.Parse(o); o != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "") {
			report(fmt.Sprintf("allowedOrigins[%d]", i), fmt.Sprintf("%q is no origin", o), "write scheme and host, such as https://app.example.com, or *")
		}
	}
	between := func(path string, v, lo, hi int) {
		if v < lo || v > hi {
			report(path, fmt.Sprintf("%d is out of range", v), fmt.Sprintf("use %d to %d", lo, hi))
		}
	}
	size := func(path string, v, lo, hi config.Size) {
		if v < lo || v > hi {
			report(path, fmt.Sprintf("%v is out of range", v), fmt.Sprintf("use %v to %v", lo, hi))
		}
	}
	between("maxConnections", c.MaxConnections, 1, 5_000_000)
	between("acceptRate", c.AcceptRate, 1, 1_000_000)
	if c.MemoryBudget != 0 {
		size("memoryBudget", c.MemoryBudget, minBudget, 1<<40)
	}
	between("maxTopicsPerConnection", c.MaxTopics, 1, 10_000)
	between("maxTopics", c.MaxStreamTopics, 1, 10_000_000)
	between("history", c.History, 0, 10_000_000)
	size("maxMessage", c.MaxMessage, 1<<10, 16<<20)
	size("maxLag", c.MaxLag, 64<<10, 1<<30)
	if c.MaxLagTime < time.Second || c.MaxLagTime > time.Hour {
		report("maxLagTime", fmt.Sprintf("%v is out of range", c.MaxLagTime), "use 1s to 1h")
	}
	between("frameRate", c.FrameRate, 1, 100_000)
	if c.PingInterval < time.Second || c.PingInterval > time.Hour {
		report("pingInterval", fmt.Sprintf("%v is out of range", c.PingInterval), "use 1s to 1h; proxies in between often cut what is silent for 60s")
	}
	if c.DrainTime < 0 || c.DrainTime > 10*time.Minute {
		report("drainTime", fmt.Sprintf("%v is out of range", c.DrainTime), "use 0s to 10m")
	}
}

// Bounds of the budget that is derived, and what is taken for the machine's
// memory where it cannot be read.
const (
	minBudget     config.Size = 64 << 20
	maxBudget     config.Size = 8 << 30
	unknownMemory config.Size = 2 << 30
)
