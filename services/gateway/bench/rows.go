//go:build linux

package main

import (
	"context"
	"time"
)

const (
	manyTopics = 5000 // of the row sets
	setSize    = 5    // topics of each of its clients
)

// A row is one line of the table: a number of clients, what is sent to them,
// and what is asked of the gateway.
type row struct {
	key, name string
	clients   int
	sets      bool // each client has a set of topics of its own
	// A turn is so many bursts of so many events: each when the one before has
	// arrived everywhere (closed loop) or, if every is set, at that rate.
	burst, bursts int
	every         time.Duration
	// Targets; 0: none. The first three are ratios to the floor.
	cpu, p99 float64
	rss      float64 // KB per client
	ms       float64 // p99, or the time to be ready
	run      func(context.Context, row, options) (outcome, error)
}

var rows = []row{
	{key: "one", name: "1 event to 1,000 clients, closed loop", clients: 1000, burst: 1, bursts: 250, cpu: 1.15, run: contest},
	{key: "bursts", name: "bursts of 64 to 1,000 clients", clients: 1000, burst: 64, bursts: 5, cpu: 0.08, run: contest},
	{key: "rate", name: "1,000 clients at 100 events/s", clients: 1000, burst: 1, bursts: 200, every: 10 * time.Millisecond, p99: 1.2, run: contest},
	{key: "many", name: "10,000 clients at 5 events/s", clients: 10_000, burst: 1, bursts: 15, every: 200 * time.Millisecond, cpu: 1.15, p99: 1.15, rss: 7, run: contest},
	{key: "sets", name: "10,000 clients, each with its own 5 of 5,000 topics, 2,000 events/s", clients: 10_000, sets: true, burst: 20, bursts: 200, every: 10 * time.Millisecond, cpu: 1.6, rss: 14, run: contest},
	{key: "walk", name: "poll answered to frame read, 100,000 frames/s", clients: 1000, ms: 25, run: walk},
	{key: "ready", name: "gateway start to ready, 5,000 topics in the stream", ms: 1000, run: ready},
}
