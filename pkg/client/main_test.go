package client

import (
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whoever imports the SDK gets a WebSocket client and nothing of the server
// side.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	allowed := []string{
		"github.com/gorilla/websocket",
		"github.com/pollcast/pollcast/pkg/client",
		"github.com/pollcast/pollcast/pkg/event",
		"github.com/pollcast/pollcast/pkg/topic",
		"github.com/pollcast/pollcast/pkg/wire",
	}
	found := 0
next:
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		host, _, _ := strings.Cut(dep, "/")
		if !strings.Contains(host, ".") {
			continue // the standard library
		}
		for _, a := range allowed {
			if dep == a {
				found++
				continue next
			}
		}
		t.Errorf("imports %s", dep)
	}
	if found != len(allowed) {
		t.Errorf("have %d of the %d imports that this list allows; take away what is not needed any more", found, len(allowed))
	}
}
