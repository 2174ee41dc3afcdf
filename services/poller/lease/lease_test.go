package lease

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
)

// A stop that cuts a renewal short, which is stored all the same, gives the lease
// back nevertheless; one that another poller has got meanwhile stays.
func TestReleaseAfterLostRenewal(t *testing.T) {
	s := bustest.Start(t)
	_, js, names := s.JetStream()
	kv, err := bus.EnsureLeases(t.Context(), js, names, s.Config())
	if err != nil {
		t.Fatal(err)
	}
	leaseOf := func(owner string) *Lease {
		return NewGroup(Options{
			KV: kv, Owner: owner, Host: "h", TTL: 10 * time.Second, Log: slog.New(slog.DiscardHandler),
			Claimants: func() []Claimant { return nil },
		}).Lease("host", slog.New(slog.DiscardHandler))
	}
	l := leaseOf("a")
	tenure, err := l.try(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Update(t.Context(), "host", tenure.entry, tenure.revision); err != nil {
		t.Fatal(err)
	}
	if err := l.Release(t.Context(), tenure); err != nil {
		t.Error(err)
	}
	if _, err := kv.Get(t.Context(), "host"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("the lease is still there: %v", err)
	}

	if tenure, err = l.try(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(t.Context(), "host"); err != nil {
		t.Fatal(err)
	}
	other := leaseOf("b")
	if theirs, err := other.try(t.Context()); err != nil || theirs == nil {
		t.Fatal(err)
	}
	if err := l.Release(t.Context(), tenure); !errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		t.Errorf("release of another's lease: %v", err)
	}
	if _, err := kv.Get(t.Context(), "host"); err != nil {
		t.Errorf("the other's lease is gone: %v", err)
	}
}

// An entry that no poller wrote holds nothing: the holder renews its lease, and a
// poller that waits gets it.
func TestForeignEntry(t *testing.T) {
	s := bustest.Start(t)
	_, js, names := s.JetStream()
	kv, err := bus.EnsureLeases(t.Context(), js, names, s.Config())
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	l := NewGroup(Options{
		KV: kv, Owner: "a", Host: "h", TTL: 10 * time.Second, Log: slog.New(slog.DiscardHandler),
		Claimants: func() []Claimant { return nil },
	}).Lease("host", slog.New(slog.NewTextHandler(&log, nil)))
	for _, entry := range []string{"", "junk", `{"type":"io.nats.jetstream.api.v1.stream_names_response"}`, `{"owner":""}`} {
		if _, err := kv.Put(t.Context(), "host", []byte(entry)); err != nil {
			t.Fatal(err)
		}
		tenure, err := l.try(t.Context())
		if err != nil || tenure == nil {
			t.Fatalf("the entry %q keeps the lease: %v", entry, err)
		}
		if have, err := kv.Get(t.Context(), "host"); err != nil || have.Revision() != tenure.Fence {
			t.Errorf("after %q: %v, %v; want revision %d", entry, have, err, tenure.Fence)
		}
	}
	if n := strings.Count(log.String(), "somebody who is no poller"); n != 4 {
		t.Errorf("it was logged %d times, want 4:\n%s", n, &log)
	}
}
