package e2e

import "syscall"

// ownGroup puts a process into a group of its own, and ends it with the test's
// process however that ends.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
