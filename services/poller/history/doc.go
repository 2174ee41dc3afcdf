// Package history keeps what an operator needs when something is wrong: the last
// attempts of each poll, the last lines of the logs, the last transitions of the
// circuits, and the counters of the polls. All of it is bounded, so that 5,000 polls
// need a few megabytes.
package history
