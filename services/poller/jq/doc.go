// Package jq makes requests and values with jq expressions, and compares values.
//
//	Question  what is asked: texts with {{ jq }} in them
//	Shape     what is published of an answer: select, mustAdvance, each, key
//	Digest    whether two values are the same, apart from what is ignored
//	Band      whether a number has moved far enough to be another value
//	Progress  whether a value that must advance does
//
// An expression sees the answer and nothing else: no environment, no files, no other
// input. Its time is bounded by the caller.
//
// A failure has two texts: one text for everybody, which quotes no value, and one
// for the operator (RedactedError).
package jq
