//go:build linux

package main

import (
	"context"
	"time"
)

const (
	manyTopics = 5000 // topics of the row sets
	setSize    = 5    // topics of each client of that row
)

// row is one line of the table: the number of clients, the load, and the
// gateway's targets.
type row struct {
	key, name string
	clients   int
	sets      bool // each client subscribes to its own set of topics
	// A turn publishes bursts times burst events. The next burst starts when the one
	// before has arrived everywhere (closed loop) or, if every is set, at that rate.
	burst, bursts int
	every         time.Duration
	// Targets; 0: none. cpu and p99 are ratios to the floor.
	cpu, p99 float64
	rss      float64 // KB per client
	ms       float64 // p99, or the time to be ready
	run      func(context.Context, row, options) (outcome, error)
}

var rows = []row{
	{key: "one", name: "1 event to 1,000 clients, closed loop", run: contest,
		clients: 1000, burst: 1, bursts: 250, cpu: 1.15},
	{key: "bursts", name: "bursts of 64 to 1,000 clients", run: contest,
		clients: 1000, burst: 64, bursts: 5, cpu: 0.08},
	{key: "rate", name: "1,000 clients at 100 events/s", run: contest,
		clients: 1000, burst: 1, bursts: 200, every: 10 * time.Millisecond, p99: 1.2},
	{key: "many", name: "10,000 clients at 5 events/s", run: contest,
		clients: 10_000, burst: 1, bursts: 15, every: 200 * time.Millisecond, cpu: 1.15, p99: 1.15, rss: 7},
	{key: "sets", name: "10,000 clients, each with its own 5 of 5,000 topics, 2,000 events/s", run: contest,
		clients: 10_000, sets: true, burst: 20, bursts: 200, every: 10 * time.Millisecond, cpu: 1.6, rss: 14},
	{key: "walk", name: "poll answered to frame read, 100,000 frames/s", run: walk,
		clients: 1000, ms: 25},
	{key: "ready", name: "gateway start to ready, 5,000 topics in the stream", run: ready,
		ms: 1000},
}
