package lease

import (
	"errors"
	"log/slog"
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
