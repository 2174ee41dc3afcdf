package bus

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Bucket is what leases need of a KV bucket. Each jetstream.KeyValue is one.
type Bucket interface {
	Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error)
	Put(ctx context.Context, key string, value []byte) (revision uint64, err error)
	Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (revision uint64, err error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Delete(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error
}

// Leases is the KV bucket of the leases on a Conn. It moves to the connections
// that replace it. It may be used by several goroutines.
type Leases struct {
	conn   *Conn
	names  Names
	config Config

	mu sync.Mutex
	on *nats.Conn // to which kv belongs
	kv jetstream.KeyValue
}

// NewLeases returns the bucket of the leases. It does not use the connection:
// Ensure makes the bucket.
func NewLeases(conn *Conn, n Names, c Config) *Leases {
	return &Leases{conn: conn, names: n, config: c}
}

// Ensure makes the bucket, or changes it to the configuration.
func (l *Leases) Ensure(ctx context.Context) error {
	link := l.conn.current.Load()
	kv, err := EnsureLeases(ctx, link.js, l.names, l.config)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.on, l.kv = link.nc, kv
	return nil
}

// bucket returns the bucket on the connection that is used now.
func (l *Leases) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	l.mu.Lock()
	on, kv := l.on, l.kv
	l.mu.Unlock()
	if on == l.conn.NATS() {
		return kv, nil
	}
	if err := l.Ensure(ctx); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kv, nil
}

// Get implements Bucket.
func (l *Leases) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	kv, err := l.bucket(ctx)
	if err != nil {
		return nil, err
	}
	return kv.Get(ctx, key)
}

// Put implements Bucket.
func (l *Leases) Put(ctx context.Context, key string, value []byte) (revision uint64, err error) {
	kv, err := l.bucket(ctx)
	if err != nil {
		return 0, err
	}
	return kv.Put(ctx, key, value)
}

// Create implements Bucket.
func (l *Leases) Create(
	ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt,
) (revision uint64, err error) {
	kv, err := l.bucket(ctx)
	if err != nil {
		return 0, err
	}
	return kv.Create(ctx, key, value, opts...)
}

// Update implements Bucket.
func (l *Leases) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	kv, err := l.bucket(ctx)
	if err != nil {
		return 0, err
	}
	return kv.Update(ctx, key, value, revision)
}

// Delete implements Bucket.
func (l *Leases) Delete(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error {
	kv, err := l.bucket(ctx)
	if err != nil {
		return err
	}
	return kv.Delete(ctx, key, opts...)
}
