package poller

import (
	"io"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/services/poller/config"
)

// The settings of a poller. Package config documents them.
type (
	Config = config.Config
	Source = config.Source
	Poll   = config.Poll
)

// DefaultOperations is the default of Config.Operations.
const DefaultOperations = config.DefaultOperations

// ErrConfig marks every error that another Config would avoid.
var ErrConfig = config.ErrConfig

// DefaultConfig returns a configuration without sources.
func DefaultConfig() Config { return config.DefaultConfig() }

// CheckSections reports what does not fit together in the sections poller and nats of a
// configuration file. The paths are those of the file.
func CheckSections(c Config, n bus.Config, report func(path, problem, fix string)) {
	c.CheckHistory(n.History, func(path, problem, fix string) { report("poller."+path, problem, fix) })
}

// WriteFeasibility writes tables for people of what the settings lead to: load, and
// times until a failure or a change is noticed.
func WriteFeasibility(w io.Writer, c Config) error { return config.WriteFeasibility(w, c) }
