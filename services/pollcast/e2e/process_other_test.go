//go:build !linux

package e2e

import (
	"syscall"
	"time"
)

// ownGroup puts a process into a group of its own.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// usedCPU is not known.
func usedCPU() time.Duration { return 0 }
