// Package tail is `pollcast tail`: it prints events and freshness as they arrive,
// as lines for people or as JSON for programs.
//
//	pkg/client ──► tail.go ──► lines.go or objects.go ──► stdout
package tail
