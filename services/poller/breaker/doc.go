// Package breaker decides whether an upstream may be called: a circuit that opens
// after failures in a row, and a quota of calls in a minute.
//
//	Begin ──► Permit ──► the call ──► End
//	  │                                │
//	  └─ closed, or one probe          └─ closed > open > half_open > closed
//
// It is the only package that uses hystrix-go. Circuit says how.
package breaker
