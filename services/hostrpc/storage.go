package hostrpc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/disk"
)

const (
	// storageFor is how long one reading of the volumes serves all callers.
	storageFor = time.Second
	// storageTimeout is when a reading counts as stuck. A file system whose
	// device is gone can hold statfs(2) for ever, and nothing can end it.
	storageTimeout = 3 * time.Second
)

// storageList is the answer of storage.list, sorted by mountpoint.
type storageList struct {
	Volumes []volume `json:"volumes"`
}

// volume's sizes are bytes; free is what ordinary users may still write. They
// are null where the host refuses them, and Unavailable says why.
type volume struct {
	Mountpoint  string   `json:"mountpoint"`
	Device      string   `json:"device"`
	Fstype      string   `json:"fstype"`
	Total       *uint64  `json:"total"`
	Used        *uint64  `json:"used"`
	Free        *uint64  `json:"free"`
	UsedPercent *float64 `json:"usedPercent"`
	Unavailable string   `json:"unavailable,omitempty"`
}

// storage reads volumes when somebody asks: nothing there is a rate, and a
// volume that hangs must not stop the sampler. At most one reader runs.
type storage struct {
	read func(context.Context) (storageList, error)

	mu     sync.Mutex
	latest *storageRead // the newest reading, finished or not
}

// storageRead is one reading; list and err are set when done is closed.
type storageRead struct {
	began time.Time
	done  chan struct{}
	ended time.Time
	list  storageList
	err   error
}

func newStorage() *storage { return &storage{read: readVolumes} }

func (s *storage) list(ctx context.Context) (storageList, error) {
	r := s.current(ctx)
	limit := time.NewTimer(time.Until(r.began.Add(storageTimeout)))
	defer limit.Stop()
	select {
	case <-r.done:
		return r.list, r.err
	default: // a finished reading goes before a limit that has passed too
	}
	select {
	case <-r.done:
		return r.list, r.err
	case <-limit.C:
		return storageList{}, fmt.Errorf("read volumes: a mounted file system has not answered for %s", time.Since(r.began).Round(time.Second))
	case <-ctx.Done():
		return storageList{}, fmt.Errorf("read volumes: %w", ctx.Err())
	}
}

// current joins the reading that is under way or fresh, or starts one.
func (s *storage) current(ctx context.Context) *storageRead {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.latest; r != nil {
		select {
		case <-r.done:
			if time.Since(r.ended) < storageFor {
				return r
			}
		default:
			return r
		}
	}
	r := &storageRead{began: time.Now(), done: make(chan struct{})}
	s.latest = r
	// Others wait for it too, so it does not end with its first caller.
	ctx = context.WithoutCancel(ctx)
	go func() { // wait waits for it
		defer close(r.done)
		r.err = guarded(func() (err error) {
			r.list, err = s.read(ctx)
			return err
		})
		r.ended = time.Now()
	}()
	return r
}

// wait waits for a reading under way, and says whether it ended before ctx.
func (s *storage) wait(ctx context.Context) bool {
	s.mu.Lock()
	r := s.latest
	s.mu.Unlock()
	if r == nil {
		return true
	}
	select {
	case <-r.done:
	case <-ctx.Done():
	}
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func readVolumes(ctx context.Context) (storageList, error) {
	physical, err := disk.PartitionsWithContext(ctx, false)
	if err != nil {
		return storageList{}, fmt.Errorf("read volumes: %w", err)
	}
	mounts := make(map[string]disk.PartitionStat)
	for _, m := range physical {
		if m.Fstype == "squashfs" { // images of packages: read-only, always full
			continue
		}
		mounts[m.Mountpoint] = m // of several on one mountpoint the last is seen
	}
	// In a container / is an overlay, which is not physical, yet it is what
	// the container's files are on.
	if _, ok := mounts["/"]; !ok {
		if all, err := disk.PartitionsWithContext(ctx, true); err == nil {
			for _, m := range all {
				if m.Mountpoint == "/" {
					mounts["/"] = m
				}
			}
		}
	}
	list := storageList{Volumes: make([]volume, 0, len(mounts))}
	for _, m := range mounts {
		list.Volumes = append(list.Volumes, readVolume(ctx, m))
	}
	slices.SortFunc(list.Volumes, func(a, b volume) int { return strings.Compare(a.Mountpoint, b.Mountpoint) })
	return list, nil
}

func readVolume(ctx context.Context, m disk.PartitionStat) volume {
	v := volume{Mountpoint: m.Mountpoint, Device: m.Device, Fstype: m.Fstype}
	usage, err := disk.UsageWithContext(ctx, m.Mountpoint)
	if err != nil {
		v.Unavailable = err.Error()
		return v
	}
	v.Total, v.Used, v.Free, v.UsedPercent = &usage.Total, &usage.Used, &usage.Free, round1(usage.UsedPercent)
	return v
}
