// Package throttle keeps what happens often from filling the log.
//
// A Logger writes at most one line per interval and key. A Gate is the rule
// alone, for a caller that has its own clock or puts a count into its own line.
package throttle
