package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPollerAtServerCutOff cuts the NATS server of the only poller off from the
// two others, which still have a quorum and take records. The poller's own
// connection stays open. It moves to one of the others and continues.
func TestPollerAtServerCutOff(t *testing.T) {
	t.Parallel()
	c, s := newCutStack(t)
	poller := s.poller("nats.url=" + c.urls())
	poller.readyWithin(clusterPatience)
	alone := c.nodes[0]
	for _, n := range c.nodes {
		if strings.Contains(lastLine(poller.logs(), "connected to NATS"), n.addr) {
			alone = n
		}
	}
	s.sets = []string{"nats.url=" + c.without(alone)}
	gateway := s.gateway()
	gateway.readyWithin(clusterPatience)
	viewer := dial(t, gateway.addr, "/v1/ws?topics=>")
	viewer.await("values", liveEvent("cut.value"))

	viewer.skip()
	cut := time.Now()
	for _, p := range c.around(alone) {
		p.sever()
	}
	viewer.await("the values are stale", isStale("cut.value"))
	if _, err := viewer.find(clusterPatience, isFresh("cut.value")); err != nil {
		t.Fatalf("the values are fresh again: %v\n%s", err, tail(poller.logs(), 30))
	}
	viewer.await("and go on", liveEvent("cut.value"))
	t.Logf("fresh again %v after the cut", time.Since(cut).Round(time.Millisecond))
	if !poller.owns() {
		t.Error("the poller does not own the source")
	}
	for _, p := range c.around(alone) {
		p.let()
	}
	wantNoGap(t, viewer)
}

// newCutStack starts a cluster for a stack with one poll, cut.value, whose value
// changes at every tick.
func newCutStack(t *testing.T) (*cluster, *stack) {
	t.Helper()
	book := newCallbook(t)
	c := newCluster(t)
	s := &stack{t: t, file: filepath.Join(t.TempDir(), "pollcast.yaml")}
	text := "nats: {replicas: 3, history: 10000, leaseTime: 2s}\npoller:\n  sources:\n" +
		sourceYAML("cut", "http://"+book.addr+"/", "value")
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.up()
	return c, s
}

// without returns the addresses of all nodes but one.
func (c *cluster) without(node *clusterNode) string {
	var urls []string
	for _, n := range c.nodes {
		if n != node {
			urls = append(urls, "nats://"+n.addr)
		}
	}
	return strings.Join(urls, ",")
}

// wantNoGap checks that a viewer received every version of cut.value.
func wantNoGap(t *testing.T, viewer *client) {
	t.Helper()
	version := uint64(0)
	for _, f := range viewer.seen(anyEvent("cut.value")) {
		if version > 0 && f.Event.Version != version+1 {
			t.Errorf("version %d follows %d", f.Event.Version, version)
		}
		version = f.Event.Version
	}
}

// lastLine returns the last line of a log that holds a text.
func lastLine(log, text string) (last string) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, text) {
			last = line
		}
	}
	return last
}
