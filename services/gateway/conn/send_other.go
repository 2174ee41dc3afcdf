//go:build !linux

package conn

import "syscall"

// send is write(2) on a socket that does not block.
func send(fd uintptr, b []byte) (int, error) { return syscall.Write(int(fd), b) }
