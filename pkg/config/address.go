package config

import (
	"fmt"
	"net"
	"strconv"
)

// CheckAddress returns what is wrong with an address to listen on: host:port with
// a port from 0, which takes a free one, to 65535. nil: nothing is wrong.
func CheckAddress(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is no address", addr)
	}
	if !IsPort(port) {
		return fmt.Errorf("%q has no port from 0 to 65535", addr)
	}
	return nil
}

// IsPort reports whether text is the number of a port.
func IsPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}
