package conn

import (
	"syscall"
	"unsafe"
)

// send is write(2) on a socket that does not block. It does not tell the
// scheduler of the call, which would cost a twentieth of it: there is nothing
// to wait for in which another goroutine could run.
func send(fd uintptr, b []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
