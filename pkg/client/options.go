package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/pkg/wire"
)

// Defaults of Options and SubscribeOptions.
const (
	DefaultMaxTopics  = 100_000
	DefaultMaxMessage = 16 << 20
	DefaultBuffer     = 256
)

// maxPatterns bounds the patterns of one subscription.
const maxPatterns = 10_000

// Options are a client's settings. Only URL is required.
type Options struct {
	// URL of the gateway's WebSocket, such as "ws://localhost:12080/v1/ws".
	// Schemes are ws and wss; http and https mean the same. A URL without a path
	// gets /v1/ws.
	URL string
	// Token returns a token. It is called before every connect and has 30 s. The
	// token is sent as "Authorization: Bearer"; an empty token sends nothing. An
	// error counts as a failed connect, which is tried again.
	Token func(ctx context.Context) (string, error)
	// HTTPHeader is sent with the handshake.
	HTTPHeader http.Header
	// TLSConfig is used for wss; nil means Go's defaults.
	TLSConfig *tls.Config
	// DialContext opens the TCP connection; nil means a net.Dialer.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger gets a line when the connection changes; nil means silence.
	Logger *slog.Logger
	// MaxTopics bounds the topics that the client holds in memory, and its polls
	// too; 0 means DefaultMaxTopics. A subscription that matches more ends with
	// ErrTooManyTopics.
	MaxTopics int
	// MaxMessage bounds a frame from the gateway, in bytes; 0 means
	// DefaultMaxMessage. A larger one ends the connection.
	MaxMessage int64

	backoff func(attempt int) time.Duration // for tests
}

// SubscribeOptions are a subscription's settings. The zero value delivers every
// event.
type SubscribeOptions struct {
	// Delivery is wire.DeliverAll (also when empty): nothing is skipped; or
	// wire.DeliverLatest: a connection that cannot keep up gets only the newest
	// event of each topic.
	Delivery string
	// MaxHz is the most events per second and topic; 0 means no limit. Above 0
	// it implies wire.DeliverLatest.
	MaxHz float64
	// Since asks for the events after a position (Event.Position) that an earlier
	// run has stored, instead of the current values.
	Since *Position
	// Buffer is how many updates the channel holds; 0 means DefaultBuffer.
	Buffer int
}

// Position is a place in the stream to resume from.
type Position struct {
	Seq   uint64 `json:"seq"`
	Epoch string `json:"epoch"`
}

func (o *Options) normalise() error {
	u, err := url.Parse(o.URL)
	if err != nil {
		// The parser's error quotes the whole URL, which may hold a secret.
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return fmt.Errorf("URL of the gateway: %w; it looks like ws://localhost:12080/v1/ws", err)
	}
	switch u.Scheme {
	case "ws", "wss":
	case "http":
		u.Scheme = "ws"
	case "https":
		u.Scheme = "wss"
	default:
		return fmt.Errorf("URL of the gateway: scheme %q is none of ws, wss, http, https; "+
			"it looks like ws://localhost:12080/v1/ws", u.Scheme)
	}
	switch {
	case u.Host == "":
		return errors.New("URL of the gateway: it has no host; it looks like ws://localhost:12080/v1/ws")
	case u.User != nil:
		return errors.New("URL of the gateway: it holds a user or password; use Options.Token or Options.HTTPHeader")
	case o.MaxTopics < 0:
		return fmt.Errorf("MaxTopics %d: it must not be negative", o.MaxTopics)
	case o.MaxMessage < 0:
		return fmt.Errorf("MaxMessage %d: it must not be negative", o.MaxMessage)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/ws"
	}
	u.Fragment = ""
	o.URL = u.String()
	o.HTTPHeader = o.HTTPHeader.Clone()
	if o.HTTPHeader == nil {
		o.HTTPHeader = http.Header{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxTopics == 0 {
		o.MaxTopics = DefaultMaxTopics
	}
	if o.MaxMessage == 0 {
		o.MaxMessage = DefaultMaxMessage
	}
	if o.backoff == nil {
		o.backoff = backoff
	}
	return nil
}

func (o *SubscribeOptions) normalise() error {
	switch o.Delivery {
	case "":
		o.Delivery = wire.DeliverAll
		if o.MaxHz > 0 {
			o.Delivery = wire.DeliverLatest
		}
	case wire.DeliverLatest:
	case wire.DeliverAll:
		if o.MaxHz > 0 {
			return fmt.Errorf("MaxHz %v: it skips events, which Delivery %q does not allow", o.MaxHz, o.Delivery)
		}
	default:
		return fmt.Errorf("Delivery %q: it must be %q or %q", o.Delivery, wire.DeliverAll, wire.DeliverLatest)
	}
	if !(o.MaxHz >= 0) || math.IsInf(o.MaxHz, 0) {
		return fmt.Errorf("MaxHz %v: it must be 0 or a positive number", o.MaxHz)
	}
	if o.Since != nil && o.Since.Epoch == "" {
		return errors.New("Since: it has no epoch; use an Event's Position")
	}
	if o.Buffer < 0 {
		return fmt.Errorf("Buffer %d: it must not be negative", o.Buffer)
	}
	if o.Buffer == 0 {
		o.Buffer = DefaultBuffer
	}
	return nil
}

// checkPatterns returns the patterns without repetition.
func checkPatterns(patterns []string) ([]string, error) {
	if len(patterns) == 0 {
		return nil, errors.New("no topics: give at least one topic or pattern")
	}
	if len(patterns) > maxPatterns {
		return nil, fmt.Errorf("%d topics: a subscription holds at most %d topics or patterns", len(patterns), maxPatterns)
	}
	var errs []error
	seen := map[string]bool{}
	var out []string
	for _, p := range patterns {
		if err := topic.CheckPattern(p); err != nil {
			errs = append(errs, err)
		}
		if !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return slices.Clip(out), errors.Join(errs...)
}
