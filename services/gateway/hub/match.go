package hub

import (
	"slices"

	"github.com/pollcast/pollcast/pkg/topic"
)

// matchAny reports whether a topic matches one of the patterns.
func matchAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return topic.Match(p, name) })
}

// coversPoll reports whether the patterns can match topics of a poll.
func coversPoll(patterns []string, poll string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return topic.CoversPoll(p, poll) })
}

// coversSource reports whether the patterns can match topics of a source.
func coversSource(patterns []string, source string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return topic.CoversSource(p, source) })
}
