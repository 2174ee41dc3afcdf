// Package config is what an operator decides about a poller: sources and their polls,
// with defaults, checks that report every mistake at once, and what follows from the
// settings.
//
//	Config ─► Source ─► Poll, Follow, Breaker, Auth, TLS
//	             │
//	             ├─► Schedule     when a poll is due
//	             ├─► Pace         how the calls of one tick share its time
//	             └─► Feasibility  what that amounts to at worst, for pollcast check
package config
