package hostrpc

import (
	"errors"
	"fmt"

	"github.com/pollcast/pollcast/pkg/config"
)

// Defaults and limits of [Config].
const (
	DefaultListen       = "127.0.0.1:12090"
	DefaultMaxBodyBytes = 1 << 20
	DefaultMaxBatch     = 100

	minBodyBytes = 1 << 10
	topBodyBytes = 64 << 20
	topBatch     = 10_000
)

// ErrConfig marks every error that a changed [Config] can fix.
var ErrConfig = errors.New("bad hostrpc configuration")

// Config is the configuration of a hostrpc server. Start from [DefaultConfig]:
// the zero value is a mistake, not a default.
type Config struct {
	// Listen is host:port; an empty host means every interface, port 0 a free
	// port. Answers reveal much about the host and callers are not authenticated,
	// so the default is loopback.
	Listen string `yaml:"listen" doc:"address to answer on; its answers tell much about the host, so loopback unless asked otherwise"`
	// AllowFaults adds the fault.* methods and lets every caller set Faults. It
	// is for demonstrations and tests.
	AllowFaults bool `yaml:"allowFaults" doc:"let callers make methods fail (fault.set), for demonstrations and tests"`
	// MaxBodyBytes bounds a request body, 1 KiB to 64 MiB; more is HTTP 413.
	MaxBodyBytes int `yaml:"maxBodyBytes" doc:"longest request body in bytes; longer ones get HTTP 413"`
	// MaxBatch bounds the calls in one batch, 1 to 10000; more is one error
	// -32600 for the whole batch.
	MaxBatch int `yaml:"maxBatch" doc:"most calls in one batch"`
}

// DefaultConfig returns a server on loopback without faults.
func DefaultConfig() Config {
	return Config{
		Listen:       DefaultListen,
		MaxBodyBytes: DefaultMaxBodyBytes,
		MaxBatch:     DefaultMaxBatch,
	}
}

// Check reports every mistake: the key's path in this section, what is wrong with
// its value, and what to write instead.
func (c Config) Check(report func(path, problem, fix string)) {
	const address = `write host:port, such as "` + DefaultListen + `"`
	if err := config.CheckAddress(c.Listen); err != nil {
		report("listen", err.Error(), address)
	}
	if c.MaxBodyBytes < minBodyBytes || c.MaxBodyBytes > topBodyBytes {
		report("maxBodyBytes", fmt.Sprintf("%d is outside %d to %d", c.MaxBodyBytes, minBodyBytes, topBodyBytes),
			fmt.Sprintf("write the bytes a request may have, such as %d", DefaultMaxBodyBytes))
	}
	if c.MaxBatch < 1 || c.MaxBatch > topBatch {
		report("maxBatch", fmt.Sprintf("%d is outside 1 to %d", c.MaxBatch, topBatch),
			fmt.Sprintf("write the calls a batch may have, such as %d", DefaultMaxBatch))
	}
}

// validate returns one error that holds everything that Check reports.
func (c Config) validate() error {
	var mistakes []error
	c.Check(func(path, problem, fix string) {
		mistakes = append(mistakes, fmt.Errorf("%w: %s: %s: %s", ErrConfig, path, problem, fix))
	})
	return errors.Join(mistakes...)
}
