// Package topic defines topics and patterns, which topics a pattern matches, and
// how a key becomes one token of a topic.
//
//	topic    host.system.status          <source>.<poll>
//	topic    eth.balance.0xabc           <source>.<poll>.<key>
//	pattern  host.>   eth.balance.*      the wildcards of NATS subjects
//
// Tokens are joined by dots and made of [A-Za-z0-9_-] and %XX. A token that
// starts with "_" is reserved for Pollcast's own records (_fresh, _breaker).
package topic
