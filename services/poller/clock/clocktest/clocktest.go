package clocktest

import (
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/pollcast/pollcast/services/poller/clock"
)

// wallSet is by how much the tests have set the wall clock.
var WallOffset atomic.Int64

func init() {
	clock.Now = func() time.Time { return setWall(time.Now(), time.Duration(WallOffset.Load())) }
}

// setWall changes the wall clock reading of a time, in whole seconds, and not
// the monotonic one: package time has no way to do that.
func setWall(t time.Time, by time.Duration) time.Time {
	if by == 0 {
		return t
	}
	layout := (*struct {
		wall uint64 // monotonic flag, 33 bits of seconds, 30 of nanoseconds
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&t))
	if layout.wall>>63 == 0 {
		return t.Add(by) // no monotonic reading
	}
	layout.wall += uint64(by/time.Second) << 30
	return t
}
