package e2e

import (
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// healthServer is gRPC's own health service, with server reflection.
type healthServer struct {
	*health.Server
	server  *grpc.Server
	serving sync.WaitGroup
}

func startHealth(t *testing.T, addr string) *healthServer {
	t.Helper()
	var ln net.Listener
	eventually(t, "the health service listens", func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	})
	h := &healthServer{Server: health.NewServer(), server: grpc.NewServer()}
	grpc_health_v1.RegisterHealthServer(h.server, h.Server)
	reflection.Register(h.server)
	h.serving.Go(func() { _ = h.server.Serve(ln) })
	return h
}

func (h *healthServer) stop() {
	h.server.Stop()
	h.serving.Wait()
}

// TestGRPCHealth checks that the state of a real gRPC service, read by its
// reflection, reaches a WebSocket client, and that its end and its return are
// seen.
func TestGRPCHealth(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	h := startHealth(t, addr)
	t.Cleanup(func() { h.stop() })
	s := newStack(t, `    shop:
      driver: grpc
      upstreams: ["grpc://`+addr+`"]
      headers: {X-Tenant: e2e}
      breaker: {openFor: 1s}
      polls:
        health: {method: grpc.health.v1.Health/Check, interval: 400ms}
        ready: {method: grpc.health.v1.Health/Check, params: {service: ""}, interval: 400ms, select: .status == "SERVING"}
        nobody: {method: grpc.health.v1.Health/Check, params: {service: nobody}, interval: 400ms}
        watch: {method: grpc.health.v1.Health/Watch, interval: 400ms}
`)
	_, gateway := s.all()
	c := dial(t, gateway.addr, "/v1/ws?topics=shop.>")
	valueIs := func(topic, data string) func(frame) bool {
		return func(f frame) bool { return anyEvent(topic)(f) && string(f.Event.Data) == data }
	}
	c.await("it serves", valueIs("shop.health", `{"status":"SERVING"}`))
	place := c.skip()
	h.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	c.await("it does not serve", valueIs("shop.health", `{"status":"NOT_SERVING"}`))
	c.back(place)
	c.await("the poll with select has it too", valueIs("shop.ready", `false`))

	for poll, want := range map[string]string{
		"shop.nobody": "gRPC status NOT_FOUND: unknown service",
		"shop.watch":  "method Watch streams; only unary methods can be polled",
	} {
		f := dial(t, gateway.addr, "/v1/ws?topics="+poll).await(poll+" is stale", isStale(poll)).Fresh
		if f.Reason != "request_rejected" || f.Detail != want || f.Breaker != "closed" {
			t.Errorf("%s: %s, %q, breaker %s; want request_rejected, %q, closed", poll, f.Reason, f.Detail, f.Breaker, want)
		}
	}

	h.stop()
	if f := c.await("stale", isStale("shop.health")).Fresh; f.Reason != "upstream_error" ||
		!strings.HasPrefix(f.Detail, "connection ") {
		t.Errorf("%s, %q; want upstream_error, connection …", f.Reason, f.Detail)
	}
	late := dial(t, gateway.addr, "/v1/ws?topics=shop.health")
	if e := late.await("the last value", anyEvent("shop.health")).Event; !e.Stale ||
		string(e.Data) != `{"status":"NOT_SERVING"}` {
		t.Errorf("a newcomer got %s, stale %v", e.Data, e.Stale)
	}
	c.await("the breaker opens", breakerTo("shop", "open"))
	h = startHealth(t, addr)
	c.await("it serves again", valueIs("shop.health", `{"status":"SERVING"}`))
	c.await("fresh", isFresh("shop.health"))
}
