// Package config loads the one YAML file that all services share: one section
// per service, each decoded into that service's own struct.
//
//	type root struct {
//		NATS    bus.Config     `yaml:"nats"`
//		Gateway gateway.Config `yaml:"gateway"`
//		Poller  config.Other   `yaml:"poller,omitempty"` // another service's
//	}
//	cfg := root{NATS: bus.DefaultConfig(), Gateway: gateway.DefaultConfig()}
//	err := config.Load(&cfg, config.Source{File: "pollcast.yaml", Env: os.Environ(), Sets: sets})
//
// Reading order: load.go (the steps), tree.go (YAML to a tree with places;
// syntax.go: why a file is not YAML), override.go (environment and flags change
// the tree), walk.go and scalar.go (tree to struct), check.go (the structs' own
// rules), problem.go (mistakes). describe.go and schema.go make the reference.
//
// # Rules
//
//   - Settings come from, weakest first: the prefilled struct, the file, the
//     environment, the -set flags.
//   - Structs and maps merge key by key; single values and lists are replaced.
//   - The loader does not guess: an unknown key, a duplicate key, a value of another
//     type, a bare number for a duration and an unset ${NAME} are mistakes.
//   - All mistakes come back at once, each with its place and what to do.
//   - ${NAME} and ${NAME:-default} in a value of the file are replaced by the
//     environment's text, which is data: it is never read as YAML. $$ is a
//     dollar sign; any other $ stands for itself.
//   - No message holds the value of a ${NAME} or of a Secret.
//
// # Structs
//
// Every exported field has a `yaml:"lowerCamel"` tag (or "-"), and may have a
// `doc:"..."` tag. Fields are strings, bools, integers, floats,
// [time.Duration], [Size], [Secret], any type that implements
// [encoding.TextUnmarshaler], structs, pointers, slices and maps with string
// keys of these, or any, which takes whatever JSON can hold. Types must not
// contain themselves. A struct outside these rules panics on first use.
package config
