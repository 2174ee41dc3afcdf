package client

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A program that imports the SDK gets a WebSocket client and the protocol, and
// nothing of the server side: no NATS, no metrics.
func TestDependencies(t *testing.T) {
	const format = `{{with .Module}}{{.Path}} {{end}}{{.ImportPath}}`
	out, err := exec.Command("go", "list", "-deps", "-f", format, ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	const own = "github.com/pollcast/pollcast/pkg"
	allowed := []string{
		"github.com/gorilla/websocket",
		"google.golang.org/protobuf", // the frames' other encoding, in pkg/wire
		own + "/client", own + "/event", own + "/topic", own + "/trust", own + "/wire",
	}
	found := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		module, pkg, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue // the standard library
		}
		if module == own {
			module = strings.TrimSuffix(pkg, "/wirepb")
		}
		if found[module] = true; !slices.Contains(allowed, module) {
			t.Errorf("imports %s", pkg)
		}
	}
	if !found["github.com/gorilla/websocket"] {
		t.Errorf("go list printed nothing: %s", out)
	}
}
