package poller

import (
	"io"

	"github.com/pollcast/pollcast/services/poller/config"
)

// What the settings of a poller are called at its door. Package config has them all.
type (
	Config = config.Config
	Source = config.Source
	Poll   = config.Poll
)

// DefaultOperations is the default of Config.Operations.
const DefaultOperations = config.DefaultOperations

// ErrConfig marks every error that a changed Config would cure.
var ErrConfig = config.ErrConfig

// DefaultConfig returns a configuration without sources.
func DefaultConfig() Config { return config.DefaultConfig() }

// WriteFeasibility writes as tables for people what the settings amount to.
func WriteFeasibility(w io.Writer, c Config) error { return config.WriteFeasibility(w, c) }
