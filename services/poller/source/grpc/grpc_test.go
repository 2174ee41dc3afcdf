package grpc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/grpc/grpctest"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
)

func openAt(t testing.TB, e source.Endpoint) func(c source.Call, allowed time.Duration) (string, error) {
	t.Helper()
	e.MaxAnswer = 64 << 10
	call, free, err := Driver.Open(e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(free)
	return func(c source.Call, allowed time.Duration) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), allowed)
		defer cancel()
		v, err := call(ctx, c)
		return string(v), err
	}
}

const plenty = 20 * time.Second

var get = source.Call{Method: "shop.Orders/Get"}

// same answers with the request.
func same(_ context.Context, _ string, in *dynamicpb.Message) (proto.Message, error) { return in, nil }

// wantRejected checks a failure that the breaker does not count.
func wantRejected(t *testing.T, err error, detail string) {
	t.Helper()
	f, ok := errors.AsType[*source.Failure](err)
	if !ok || f.Reason != event.RequestRejected || f.Counts || !strings.Contains(f.Detail, detail) {
		t.Errorf("have %v\nwant request_rejected, not counted: %s", err, detail)
	}
}

func TestGRPCValues(t *testing.T) {
	s := grpctest.New(t, same)
	ask := openAt(t, source.Endpoint{URL: s.URL()})
	for _, tt := range []struct{ params, want string }{
		{``, `{"count":0,"totalCents":"0","state":"OPEN","tags":[]}`},
		{`{"count":7,"total_cents":9007199254740993,"state":"PAID","at":"2026-01-02T03:04:05Z","tags":["a","ü"]}`,
			`{"count":7,"totalCents":"9007199254740993","state":"PAID","at":"2026-01-02T03:04:05Z","tags":["a","ü"]}`},
	} {
		c := get
		if tt.params != "" {
			c.Params = json.RawMessage(tt.params)
		}
		for range 5 { // the text does not vary
			if v, err := ask(c, plenty); err != nil || v != tt.want {
				t.Errorf("params %s: %s, %v\nwant %s", tt.params, v, err, tt.want)
			}
		}
	}
	for params, want := range map[string]string{
		`{"nope":1}`:       `params are no shop.Order: (line 1:2): unknown field "nope"`,
		`{"count":"many"}`: `params are no shop.Order: (line 1:10): invalid value for int32 field count`,
	} {
		_, err := ask(source.Call{Method: get.Method, Params: json.RawMessage(params)}, plenty)
		wantRejected(t, err, want)
	}
	for method, want := range map[string]string{
		"shop.Nobody/Get":   "server reflection: the upstream knows no such name: ",
		"shop.Orders/Put":   "service shop.Orders has no method Put",
		"shop.Order/Get":    "shop.Order is no service",
		"shop.Orders/Watch": "method Watch streams; only unary methods can be polled",
	} {
		_, err := ask(source.Call{Method: method}, plenty)
		wantRejected(t, err, want)
	}
	if n := s.Reflected.Load(); n > 6 {
		t.Errorf("reflection was asked %d times", n)
	}
}

// TestGRPCMetadata checks that metadata and the deadline arrive.
func TestGRPCMetadata(t *testing.T) {
	s := grpctest.New(t, func(ctx context.Context, _ string, in *dynamicpb.Message) (proto.Message, error) {
		at, ok := ctx.Deadline()
		if left := time.Until(at); !ok || left > plenty || left < plenty/2 {
			return nil, status.Errorf(codes.InvalidArgument, "deadline in %v", left)
		}
		tags := in.Mutable(in.Descriptor().Fields().ByName("tags")).List()
		for _, name := range []string{"authorization", "x-tenant", "x-poll", "user-agent"} {
			tags.Append(protoreflect.ValueOfString(grpctest.Meta(ctx, name)))
		}
		return in, nil
	})
	ask := openAt(t, source.Endpoint{URL: s.URL(), Header: http.Header{"Authorization": {"Bearer x"}, "X-Tenant": {"a"},
		"User-Agent": {"pollcast"}}})
	v, err := ask(source.Call{Method: get.Method, Header: http.Header{"X-Poll": {"p"}, "X-Tenant": {"b"}}}, plenty)
	if want := `"tags":["Bearer x","b","p","pollcast"]`; err != nil || !strings.Contains(v, want) {
		t.Errorf("%s, %v; want %s", v, err, want)
	}
}

func TestGRPCStatus(t *testing.T) {
	var code atomic.Uint32
	s := grpctest.New(t, func(context.Context, string, *dynamicpb.Message) (proto.Message, error) {
		return nil, status.Error(codes.Code(code.Load()), "so\nit is")
	})
	ask := openAt(t, source.Endpoint{URL: s.URL()})
	for _, tt := range []struct {
		code   codes.Code
		name   string
		reason event.Reason
	}{
		{codes.Canceled, "CANCELLED", event.UpstreamError},
		{codes.Unknown, "UNKNOWN", event.UpstreamError},
		{codes.InvalidArgument, "INVALID_ARGUMENT", event.RequestRejected},
		{codes.DeadlineExceeded, "DEADLINE_EXCEEDED", event.Timeout},
		{codes.NotFound, "NOT_FOUND", event.RequestRejected},
		{codes.AlreadyExists, "ALREADY_EXISTS", event.RequestRejected},
		{codes.PermissionDenied, "PERMISSION_DENIED", event.RequestRejected},
		{codes.ResourceExhausted, "RESOURCE_EXHAUSTED", event.UpstreamError},
		{codes.FailedPrecondition, "FAILED_PRECONDITION", event.RequestRejected},
		{codes.Aborted, "ABORTED", event.UpstreamError},
		{codes.OutOfRange, "OUT_OF_RANGE", event.RequestRejected},
		{codes.Unimplemented, "UNIMPLEMENTED", event.RequestRejected},
		{codes.Internal, "INTERNAL", event.UpstreamError},
		{codes.Unavailable, "UNAVAILABLE", event.UpstreamError},
		{codes.DataLoss, "DATA_LOSS", event.UpstreamError},
		{codes.Unauthenticated, "UNAUTHENTICATED", event.RequestRejected},
	} {
		code.Store(uint32(tt.code))
		_, err := ask(get, plenty)
		f, ok := errors.AsType[*source.Failure](err)
		if !ok || f.Reason != tt.reason || f.Counts != (tt.reason != event.RequestRejected) ||
			f.Detail != "gRPC status "+tt.name+": so it is" {
			t.Errorf("%v: %v", tt.code, err)
		}
	}
}

// Either version of reflection is asked once. It is asked again on a new
// connection, and the new answer counts.
func TestGRPCReflection(t *testing.T) {
	for _, version := range []string{"v1", "v1alpha"} {
		t.Run(version, func(t *testing.T) {
			s := grpctest.New(t, same, func(s *grpctest.Server) { s.V1, s.Alpha = version == "v1", version != "v1" })
			ask := openAt(t, source.Endpoint{URL: s.URL()})
			c := source.Call{Method: get.Method, Params: json.RawMessage(`{"count":1}`)}
			const want = `{"count":1,"totalCents":"0","state":"OPEN","tags":[]}`
			for range 5 {
				if v, err := ask(c, plenty); err != nil || v != want {
					t.Fatalf("%s, %v", v, err)
				}
			}

			before := s.Reflected.Load()
			if v, err := ask(c, plenty); err != nil || s.Reflected.Load() != before {
				t.Errorf("reflection was asked again: %s, %v", v, err)
			}
			s.Stop()
			s.Files = grpctest.Link(t, strings.ReplaceAll(grpctest.Order, `name: "count"`, `name: "number"`), grpctest.Shop,
				grpctest.Extra)
			s.Start()
			for limit := time.Now().Add(plenty); ; {
				v, err := ask(source.Call{Method: get.Method}, plenty)
				if v == `{"number":0,"totalCents":"0","state":"OPEN","tags":[]}` {
					break
				}
				if v != "" || time.Now().After(limit) {
					t.Fatalf("%s, %v: not the new upstream's answer", v, err)
				}
			}
		})
	}
	s := grpctest.New(t, same, func(s *grpctest.Server) { s.V1, s.Alpha = false, false })
	_, err := openAt(t, source.Endpoint{URL: s.URL()})(get, plenty)
	wantRejected(t, err, "upstream offers no server reflection; name a descriptor set (descriptors)")
}

// A method that the upstream does not have is looked up again: it may have come
// back.
func TestGRPCUnimplemented(t *testing.T) {
	var gone atomic.Bool
	s := grpctest.New(t, func(_ context.Context, _ string, in *dynamicpb.Message) (proto.Message, error) {
		if gone.Load() {
			return nil, status.Error(codes.Unimplemented, "gone")
		}
		return in, nil
	})
	ask := openAt(t, source.Endpoint{URL: s.URL()})
	if _, err := ask(get, plenty); err != nil {
		t.Fatal(err)
	}
	gone.Store(true)
	_, err := ask(get, plenty)
	wantRejected(t, err, "gRPC status UNIMPLEMENTED: gone")
	gone.Store(false)
	before := s.Reflected.Load()
	if v, err := ask(get, plenty); err != nil || s.Reflected.Load() == before {
		t.Errorf("%s, %v; reflection was not asked again", v, err)
	}
}

// A lookup that hangs is a timeout like any other, for all calls that wait for
// it.
func TestGRPCReflectionHangs(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: p, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() { _ = srv.Close(); serving.Wait() })
	ask := openAt(t, source.Endpoint{URL: "grpc://" + ln.Addr().String()})
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			start := time.Now()
			_, err := ask(get, sourcetest.Brief)
			sourcetest.WantFailure(t, err, event.Timeout, "no answer within ")
			if took := time.Since(start); took > plenty/2 {
				t.Errorf("it took %v", took)
			}
		})
	}
	calls.Wait()
}

// A descriptor set replaces reflection.
func TestGRPCDescriptorSet(t *testing.T) {
	s := grpctest.New(t, same, func(s *grpctest.Server) { s.V1, s.Alpha = false, false })
	file := writeSet(t, grpctest.Order, grpctest.Shop)
	ask := openAt(t, source.Endpoint{URL: s.URL(), Descriptors: file})
	for range 2 {
		if v, err := ask(source.Call{Method: get.Method, Params: json.RawMessage(`{"count":3}`)}, plenty); err != nil ||
			!strings.Contains(v, `"count":3`) {
			t.Errorf("%s, %v", v, err)
		}
	}
	_, err := ask(source.Call{Method: "shop.Orders/Put"}, plenty)
	wantRejected(t, err, "service shop.Orders has no method Put")
}

// writeSet writes a descriptor set without protobuf's own files.
func writeSet(t testing.TB, texts ...string) string {
	t.Helper()
	set := new(descriptorpb.FileDescriptorSet)
	for _, text := range texts {
		set.File = append(set.File, grpctest.ParseFile(t, text))
	}
	data, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "shop.binpb")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// The message in a google.protobuf.Any is looked up by reflection.
func TestGRPCAny(t *testing.T) {
	var kind atomic.Value
	kind.Store("shop.Extra")
	s := grpctest.New(t, func(_ context.Context, _ string, in *dynamicpb.Message) (proto.Message, error) {
		d, err := grpctest.Link(t, grpctest.Order, grpctest.Shop, grpctest.Extra).FindDescriptorByName("shop.Extra")
		if err != nil {
			return nil, err
		}
		m := dynamicpb.NewMessage(d.(protoreflect.MessageDescriptor))
		if err := protojson.Unmarshal([]byte(`{"note":"x"}`), m); err != nil {
			return nil, err
		}
		a, err := anypb.New(m)
		a.TypeUrl = "type.googleapis.com/" + kind.Load().(string)
		return a, err
	})
	ask := openAt(t, source.Endpoint{URL: s.URL()})
	c := source.Call{Method: "shop.Orders/Any"}
	for range 2 {
		if v, err := ask(c, plenty); err != nil || v != `{"@type":"type.googleapis.com/shop.Extra","note":"x"}` {
			t.Errorf("%s, %v", v, err)
		}
	}
	// After the connection broke, another version of the upstream answers.
	s.Stop()
	s.Files = grpctest.Link(t, grpctest.Order, grpctest.Shop, strings.ReplaceAll(grpctest.Extra, `"note"`, `"text"`))
	s.Start()
	for limit := time.Now().Add(plenty); ; {
		v, err := ask(c, plenty)
		if v == `{"@type":"type.googleapis.com/shop.Extra","text":"x"}` {
			break
		}
		if v != "" || time.Now().After(limit) {
			t.Fatalf("%s, %v: not the new upstream's answer", v, err)
		}
	}
	kind.Store("shop.Unknown")
	_, err := ask(c, plenty)
	sourcetest.WantFailure(t, err, event.BadResponse, "answer, a google.protobuf.Any, cannot be written as JSON: ")
}

func TestGRPCOverTLS(t *testing.T) {
	authority := sourcetest.NewAuthority(t, "test authority")
	own := authority.Now("127.0.0.1")
	cert, key := authority.Now("poller-1").Files()
	secure := grpctest.New(t, same, grpctest.Secured(credentials.NewServerTLSFromCert(&own.Certificate)))
	plain := grpctest.New(t, same)
	certs := sourcetest.Certificates(t, source.CertificateFiles{CA: authority.File(), Cert: cert, Key: key})
	if v, err := openAt(t, source.Endpoint{URL: "grpcs://" + secure.Addr, TLS: certs})(get, plenty); err != nil {
		t.Errorf("%s, %v", v, err)
	}
	_, err := openAt(t, source.Endpoint{URL: "grpcs://" + secure.Addr})(get, plenty)
	sourcetest.WantFailure(t, err, event.UpstreamError,
		"TLS: the upstream's certificate is signed by an unknown authority")
	_, err = openAt(t, source.Endpoint{URL: "grpcs://" + plain.Addr, TLS: certs})(get, plenty)
	sourcetest.WantFailure(t, err, event.BadResponse, "upstream does not speak TLS")
	_, err = openAt(t, source.Endpoint{URL: "grpc://" + secure.Addr})(get, plenty)
	if f, ok := errors.AsType[*source.Failure](err); !ok || !f.Counts || !strings.HasPrefix(f.Detail, "connection ") &&
		f.Detail != "answer is not HTTP/2" {
		t.Errorf("plain to TLS: %v", err)
	}
}

// A proxy before a gRPC server may answer in its own way.
func TestGRPCBehindProxies(t *testing.T) {
	for _, tt := range []struct {
		name   string
		handle http.HandlerFunc
		reason event.Reason
		detail string
	}{
		{"503", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, event.UpstreamError,
			"HTTP 503 Service Unavailable"},
		{"302", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://login.example/?x=1", http.StatusFound)
		}, event.BadResponse, "this one leads to https://login.example"},
		{"HTML", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, event.BadResponse,
			"answer is HTML, not gRPC"},
		{"JSON", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{}")
		}, event.BadResponse, `answer is not gRPC, but "application/json"`},
		{"no status", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = io.WriteString(w, "\x00\x00\x00\x00\x00")
		}, event.BadResponse, "answer breaks the rules of gRPC: "},
		{"half", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = io.WriteString(w, "\x00\x00\x00\x01\x00abc")
		}, event.BadResponse, "answer breaks the rules of gRPC: "},
		{"reset", func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, event.UpstreamError,
			"upstream reset the call: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			p := new(http.Protocols)
			p.SetUnencryptedHTTP2(true)
			srv := &http.Server{Protocols: p, Handler: tt.handle}
			var serving sync.WaitGroup
			serving.Go(func() { _ = srv.Serve(ln) })
			t.Cleanup(func() { _ = srv.Close(); serving.Wait() })
			// The descriptor set makes the call the first request.
			_, err = openAt(t, source.Endpoint{URL: "grpc://" + ln.Addr().String(),
				Descriptors: writeSet(t, grpctest.Order, grpctest.Shop)})(get, plenty)
			sourcetest.WantFailure(t, err, tt.reason, tt.detail)
		})
	}
}

// A connection is given up when its other end is gone without closing it.
func TestGRPCBlackHole(t *testing.T) {
	s := grpctest.New(t, same)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var silent atomic.Bool // the first connection
	var n atomic.Int64
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			first := n.Add(1) == 1
			to, err := net.Dial("tcp", s.Addr)
			if err != nil {
				_ = c.Close()
				return
			}
			pass := func(dst, src net.Conn) {
				defer dst.Close()
				buf := make([]byte, 32<<10)
				for {
					m, err := src.Read(buf)
					if err != nil {
						return
					}
					if first && silent.Load() {
						continue
					}
					if _, err := dst.Write(buf[:m]); err != nil {
						return
					}
				}
			}
			conns.Go(func() { pass(to, c) })
			conns.Go(func() { pass(c, to) })
		}
	})
	ask := openAt(t, source.Endpoint{URL: "grpc://" + ln.Addr().String()})
	t.Cleanup(func() { _ = ln.Close(); s.GRPC.Stop() })
	if _, err := ask(get, plenty); err != nil {
		t.Fatal(err)
	}
	silent.Store(true)
	start := time.Now()
	for {
		v, err := ask(get, sourcetest.Brief)
		if err == nil {
			break
		}
		sourcetest.WantFailure(t, err, event.Timeout, "no answer within ")
		if time.Since(start) > plenty {
			t.Fatalf("%s, %v: still the dead connection", v, err)
		}
	}
	if n.Load() < 2 {
		t.Error("no other connection was made")
	}
}

func TestCheckGRPC(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	set := writeSet(t, grpctest.Order, grpctest.Shop)
	for _, tt := range []struct {
		descriptors string
		c           source.Call
		want        string // "" means no mistake
	}{
		{"", source.Call{Method: "a.b.C/D"}, ""},
		{"", source.Call{Method: "C/D", Params: json.RawMessage(`{"a":1}`), Header: http.Header{"X-A": {"b"}}}, ""},
		{"", source.Call{}, "method: it is missing"},
		{"", source.Call{Method: "/a.b.C/D"}, "method: it is no gRPC method"},
		{"", source.Call{Method: "a.b.C.D"}, "method: it is no gRPC method"},
		{"", source.Call{Method: "a.b.C/D", Params: json.RawMessage(`[1]`)}, "params: a gRPC request is a message"},
		{"", source.Call{Method: "a.b.C/D", Path: "x"}, "path: a gRPC call has none"},
		{"", source.Call{Method: "a.b.C/D", Header: http.Header{"Grpc-Timeout": {"1S"}}},
			"headers.Grpc-Timeout: names that start with grpc-"},
		{set, source.Call{Method: "shop.Orders/Get"}, ""},
		{set, source.Call{Method: "shop.Orders/Put"}, "method: service shop.Orders has no method Put"},
		{set, source.Call{Method: "shop.Orders/Watch"}, "method: method Watch streams"},
		{writeSet(t, grpctest.Shop), source.Call{Method: "shop.Orders/Get"}, `descriptors: `},
		{text, source.Call{Method: "shop.Orders/Get"}, "descriptors: " + text + ": it is no descriptor set"},
		{text + "2", source.Call{Method: "shop.Orders/Get"}, "descriptors: " + text + "2: there is no such file"},
	} {
		have := ""
		report := func(key, problem, fix string) {
			if fix == "" {
				t.Errorf("%s: no fix", key)
			}
			have += key + ": " + problem
		}
		Driver.Check(source.Endpoint{Descriptors: tt.descriptors}, report)(tt.c, report)
		if (tt.want == "") != (have == "") || !strings.Contains(have, tt.want) {
			t.Errorf("%+v: have %q, want %q", tt.c, have, tt.want)
		}
	}
}
