// Package breaker decides whether an upstream may be called: a circuit that opens
// after failures in a row, and a quota of calls a minute.
//
//	Begin ──► Permit ──► the call ──► End
//	  │                                │
//	  └─ closed, or one probe          └─ closed > open > half_open > closed
//
//	circuit.go   Circuit: the streak, the rule, Retry-After
//	memo.go      what the next lease holder gets of a circuit
//	quota.go     Quota: calls a minute
//	hystrix.go   hystrix-go behind one door, and its price
package breaker
