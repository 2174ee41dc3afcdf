// Package clocktest sets the wall clock that package clock sees, for tests.
package clocktest
