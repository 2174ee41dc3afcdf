//go:build !linux

package e2e

import (
	"syscall"
	"time"
)

// ownGroup gives a process its own group.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// usedCPU is not known.
func usedCPU() time.Duration { return 0 }
