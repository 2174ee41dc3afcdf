package grpc

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/grpc/grpctest"
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
