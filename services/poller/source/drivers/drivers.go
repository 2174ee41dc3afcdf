// Package drivers lists the drivers by the names that configurations use.
package drivers

import (
	"maps"
	"slices"
	"strings"

	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/grpc"
	"github.com/pollcast/pollcast/services/poller/source/jsonrpc"
	"github.com/pollcast/pollcast/services/poller/source/rest"
)

// All holds every driver.
var All = map[string]source.Driver{
	"grpc":    grpc.Driver,
	"http":    rest.Driver,
	"jsonrpc": jsonrpc.Driver,
}

// Encrypted reports whether a URL is asked over TLS.
func Encrypted(address string) bool {
	scheme, _, _ := strings.Cut(address, "://")
	for _, d := range All {
		if slices.Index(d.Schemes, scheme) == 1 {
			return true
		}
	}
	return false
}

// Schemes lists the schemes of all drivers' URLs.
func Schemes() []string {
	var all []string
	for _, d := range All {
		all = append(all, d.Schemes...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Names lists the drivers for messages: "grpc, http or jsonrpc".
func Names() string {
	names := slices.Sorted(maps.Keys(All))
	if last := len(names) - 1; last > 0 {
		return strings.Join(names[:last], ", ") + " or " + names[last]
	}
	return names[0]
}
