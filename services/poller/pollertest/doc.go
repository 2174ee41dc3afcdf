// Package pollertest holds what the tests of several packages of the poller use.
package pollertest
