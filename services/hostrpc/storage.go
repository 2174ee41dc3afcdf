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
	// storageFor is how long one reading of the volumes is used for all callers.
	storageFor = time.Second
	// storageTimeout is when a reading counts as stuck. A file system whose
	// device is gone can block statfs(2) for ever, and nothing can end that.
	storageTimeout = 3 * time.Second
)

// storageList is the answer of storage.list, sorted by mountpoint.
type storageList struct {
	Volumes []volume `json:"volumes"`
}

// volume has sizes in bytes; free is what ordinary users may still write. They
// are null where the host refuses them; Unavailable has the reason.
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

// storage reads volumes on demand: they have no rates, and a volume that hangs
// must not stop the sampler. At most one reader runs.
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
	default: // a finished reading has precedence over the limit
	}
	select {
	case <-r.done:
		return r.list, r.err
	case <-limit.C:
		return storageList{}, fmt.Errorf("read volumes: a mounted file system has not answered for %s",
			time.Since(r.began).Round(time.Second))
	case <-ctx.Done():
		return storageList{}, fmt.Errorf("read volumes: %w", ctx.Err())
	}
}

// current returns the reading that is running or recent, or starts one.
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
	// Other callers wait for it too, so it must not end with its first caller.
	ctx = context.WithoutCancel(ctx)
	go func() { // s.wait waits for this goroutine
		defer close(r.done)
		r.err = guarded(func() (err error) {
			r.list, err = s.read(ctx)
			return err
		})
		r.ended = time.Now()
	}()
	return r
}

// wait waits for a running reading and reports whether it ended before ctx.
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
		if m.Fstype == "squashfs" { // a package image: read-only, always full
			continue
		}
		mounts[m.Mountpoint] = m // the last one at a mountpoint hides the others
	}
	// In a container / is an overlay. It is not physical, but the container's
	// files are on it.
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
