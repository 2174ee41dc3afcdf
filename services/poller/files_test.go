package poller

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/services/poller/config"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

// A reload of the same configuration notices a descriptor set, or a certificate,
// that has changed under its name, size and time, and leaves the others alone.
func TestReloadNoticesFiles(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(g, health.NewServer()) // without reflection
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(ln) })
	t.Cleanup(func() { g.Stop(); serving.Wait() })
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, "1") }))
	t.Cleanup(web.Close)

	dir, at := t.TempDir(), time.Now().Add(-time.Hour)
	write := func(name string, data []byte) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
		return name
	}
	set := func(field string) []byte {
		t.Helper()
		f := protodesc.ToFileDescriptorProto(grpc_health_v1.File_grpc_health_v1_health_proto)
		for _, m := range f.MessageType {
			if m.GetName() == "HealthCheckResponse" {
				m.Field[0].Name, m.Field[0].JsonName = &field, &field
			}
		}
		data, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{f}})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	c := config.Config{Sources: map[string]config.Source{
		"described": {
			Driver: "grpc", Upstreams: []string{"grpc://" + ln.Addr().String()}, Descriptors: write("health.binpb", set("status")),
			Polls: map[string]config.Poll{"p": {Interval: 100 * time.Millisecond, Method: "grpc.health.v1.Health/Check"}},
		},
		"secure": {
			Driver: "http", Upstreams: []string{web.URL}, TLS: config.TLS{CA: write("ca.pem", append([]byte("one\n"), ca...))},
			Polls: map[string]config.Poll{"p": {Interval: 100 * time.Millisecond, Path: "/"}},
		},
		"plain": {Upstreams: []string{newRPC(t).URL}, Polls: map[string]config.Poll{"p": {Interval: 100 * time.Millisecond, Method: "m"}}},
	}}
	s := bustest.Start(t)
	w := watch(t, s)
	p := run(t, c, s.Config())
	says := func(topic, data string) func(bus.Message) bool {
		return func(m bus.Message) bool {
			return m.Event != nil && m.Event.Topic == topic && strings.Contains(string(m.Event.Data), data)
		}
	}
	w.until("a value", says("described.p", `"status"`))
	reload := func(want ...string) {
		t.Helper()
		changes, err := p.Reload(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(changes.Changed, want) || len(changes.Unchanged) != len(c.Sources)-len(want) {
			t.Errorf("%+v, want %q changed", changes, want)
		}
	}
	reload()
	old, next := set("status"), set("health")
	if len(old) != len(next) || bytes.Equal(old, next) {
		t.Fatal("the sets are not of the same size")
	}
	write("health.binpb", next)
	reload("described")
	w.until("a value as described now", says("described.p", `"health"`))
	write("ca.pem", append([]byte("two\n"), ca...))
	reload("secure")
	reload()
}
