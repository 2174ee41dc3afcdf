//go:build linux

package main

func (r report) svg() []byte { return nil }
