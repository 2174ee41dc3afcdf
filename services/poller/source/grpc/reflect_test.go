package grpc

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/grpc/grpctest"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
)

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
