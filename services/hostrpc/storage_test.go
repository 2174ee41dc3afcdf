package hostrpc

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestStorageList reads the volumes of the host the test runs on.
func TestStorageList(t *testing.T) {
	list := result[storageList](start(t, Options{}), "storage.list", "")
	byPath := func(a, b volume) int { return strings.Compare(a.Mountpoint, b.Mountpoint) }
	if !slices.IsSortedFunc(list.Volumes, byPath) {
		t.Errorf("have %v, want them sorted", list.Volumes)
	}
	i := slices.IndexFunc(list.Volumes, func(v volume) bool { return v.Mountpoint == "/" })
	if i < 0 {
		t.Fatalf("have %+v, want /", list.Volumes)
	}
	root := list.Volumes[i]
	if root.Total == nil || *root.Total == 0 || root.Free == nil || *root.Free > *root.Total || root.Used == nil ||
		root.UsedPercent == nil || *root.UsedPercent > 100 {
		t.Errorf("have %+v, want sizes", root)
	}
}

// TestStorageMounts reads made-up mount tables: a container's, and one with
// everything that must not be listed.
func TestStorageMounts(t *testing.T) {
	const filesystems = "nodev\tproc\nnodev\ttmpfs\nnodev\toverlay\n\text4\n\tsquashfs\n"
	for _, c := range []struct {
		name, mountinfo string
		want            []string
	}{
		{"container", `100 50 0:40 / / rw,relatime - overlay overlay rw,lowerdir=/l
101 100 0:41 / /proc rw - proc proc rw
102 100 254:1 /docker/containers/x/hosts /etc/hosts rw - ext4 /dev/vda1 rw
`, []string{"/ overlay"}},
		{"host", `20 1 254:1 / / rw - ext4 /dev/vda1 rw
21 20 0:5 / /run rw - tmpfs tmpfs rw
22 20 7:0 / /snap/core ro - squashfs /dev/loop0 ro
23 20 254:2 / /nowhere-to-be-found rw - ext4 /dev/vdb1 rw
24 20 254:1 /srv /bind rw - ext4 /dev/vda1 rw
`, []string{"/ ext4", "/nowhere-to-be-found ext4 unavailable"}},
	} {
		ctx, _ := procOf(t, map[string]string{"1/mountinfo": c.mountinfo, "filesystems": filesystems})
		list, err := readVolumes(ctx)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		var have []string
		for _, v := range list.Volumes {
			text := v.Mountpoint + " " + v.Fstype
			if v.Unavailable != "" {
				text += " unavailable"
			}
			if (v.Unavailable == "") != (v.Total != nil) {
				t.Errorf("%s: have %+v, want sizes or a reason", c.name, v)
			}
			have = append(have, text)
		}
		if !slices.Equal(have, c.want) {
			t.Errorf("%s: have %q, want %q", c.name, have, c.want)
		}
	}
	ctx, _ := procOf(t, nil)
	if _, err := readVolumes(ctx); err == nil {
		t.Error("have no error without a mount table")
	}
}

// TestStorageStuck checks that a volume that hangs costs its callers three
// seconds at most and one goroutine in total, and that it recovers.
func TestStorageStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStorage()
		var reads atomic.Int32
		unstick := make(chan struct{})
		s.read = func(context.Context) (storageList, error) {
			reads.Add(1)
			<-unstick
			return storageList{Volumes: []volume{{Mountpoint: "/"}}}, nil
		}
		began := time.Now()
		if _, err := s.list(t.Context()); err == nil || !strings.Contains(err.Error(), "has not answered for 3s") ||
			time.Since(began) != storageTimeout {
			t.Errorf("have %v after %s, want an error after 3s", err, time.Since(began))
		}
		time.Sleep(time.Second)
		began = time.Now()
		if _, err := s.list(t.Context()); err == nil || !strings.Contains(err.Error(), "for 4s") || time.Since(began) != 0 ||
			reads.Load() != 1 {
			t.Errorf("have %v after %s and %d reads, want an error at once", err, time.Since(began), reads.Load())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if s.wait(ctx) {
			t.Error("wait reports that a stuck reading ended")
		}
		cancel()
		close(unstick)
		if !s.wait(t.Context()) {
			t.Error("wait reports that an ended reading is stuck")
		}
		for range 5 { // one reading serves a second
			if list, err := s.list(t.Context()); err != nil || len(list.Volumes) != 1 {
				t.Errorf("have %v, %v", list, err)
			}
		}
		if reads.Load() != 1 {
			t.Errorf("have %d reads, want 1", reads.Load())
		}
		time.Sleep(storageFor)
		if _, err := s.list(t.Context()); err != nil || reads.Load() != 2 {
			t.Errorf("have %v and %d reads, want a second one", err, reads.Load())
		}
		s.read = func(context.Context) (storageList, error) { panic("bad table") }
		time.Sleep(storageFor)
		if _, err := s.list(t.Context()); err == nil || !strings.Contains(err.Error(), "panicked") {
			t.Errorf("have %v, want the panic as an error", err)
		}
	})
}

func TestStorageCanceled(t *testing.T) {
	s := newStorage()
	unstick := make(chan struct{})
	s.read = func(ctx context.Context) (storageList, error) { <-unstick; return storageList{}, ctx.Err() }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.list(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("have %v, want the caller's cancel", err)
	}
	// Other callers wait for the same reading: it must not end with its first
	// caller.
	close(unstick)
	if _, err := s.list(t.Context()); err != nil {
		t.Errorf("have %v for the next caller, want the list", err)
	}
}
