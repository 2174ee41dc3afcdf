// Package event holds the records that Pollcast publishes: events (a topic's
// value changed), freshness (how far a poll's values can be trusted) and breaker
// transitions. The types are the JSON of the NATS records and of the client
// frames; proto/pollcast/v1 is their schema.
package event
