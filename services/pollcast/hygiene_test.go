// Package pollcast_test tests the repository as a whole: which package may depend
// on which, and that the pages under docs agree with the programs.
package pollcast_test

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/pollcast/pollcast/"
)

// TestDependencies checks what packages must not link, directly or not, and why.
func TestDependencies(t *testing.T) {
	for _, rule := range []struct{ from, not, why string }{
		{"pkg/...", module + "services/", "one direction: services know pkg, never the other way"},
		{"pkg/client", "github.com/nats-io/", "a program that uses the SDK speaks WebSocket, and brings no NATS along"},
		{"pkg/client", "github.com/prometheus/", "a program that uses the SDK chooses its metrics itself"},
		{"pkg/wire", "github.com/nats-io/", "the frames are for clients, which know nothing of NATS"},
		{"pkg/topic", "github.com/", "the rules of topics need nothing"},
		{"services/gateway", "github.com/afex/", "breakers stand where calls are made: in the poller"},
		{"services/gateway", module + "services/poller", "they meet in NATS and in pollcast only"},
		{"services/gateway", module + "services/hostrpc", "a gateway knows no upstream"},
		{"services/gateway/ws", module, "WebSocket is bytes; it knows nothing of ours"},
		{"services/gateway/ws", "net", "WebSocket is bytes, without a socket"},
		{"services/gateway/hub", "net", "the hub has no socket and no HTTP"},
		{"services/gateway/hub", "github.com/nats-io/", "records come to the hub by its methods"},
		{"services/gateway/hub", "github.com/gorilla/", "the hub knows no clients"},
		{"services/gateway/hub", "github.com/prometheus/", "the hub counts by interfaces"},
		{"services/gateway/hub", module + "pkg/bus", "records come to the hub by its methods"},
		{"services/gateway/hub", module + "services/gateway/ws", "the hub's frames are any bytes"},
		{"services/gateway/memory", module, "the budget counts bytes of anything"},
		{"services/gateway/conn", "net/http", "what a client sends, and how it came, is no business of what is sent to it"},
		{"services/gateway/conn", "github.com/gorilla/", "a connection begins after the handshake"},
		{"services/gateway/conn", "github.com/nats-io/", "a connection reads feeds, not the stream"},
		{"services/poller", "github.com/gorilla/", "clients are the gateway's"},
		{"services/poller", module + "services/gateway", "they meet in NATS and in pollcast only"},
		{"services/poller", module + "services/hostrpc", "hostrpc is an upstream like any other"},
		{"services/poller/source/web", "connectrpc.com/", "what all drivers share knows HTTP only"},
		{"services/poller/source/jsonrpc", "connectrpc.com/", "drivers do not know each other"},
		{"services/poller/source/rest", module + "services/poller/source/jsonrpc", "drivers do not know each other"},
		{"services/poller/source/grpc", module + "services/poller/source/jsonrpc", "drivers do not know each other"},
		{"services/hostrpc", "github.com/nats-io/", "an upstream does not know who polls it"},
		{"services/gateway/cmd/gateway", "github.com/nats-io/nats-server/",
			"only pollcast embeds a server; images stay small"},
		{"services/poller/cmd/poller", "github.com/nats-io/nats-server/",
			"only pollcast embeds a server; images stay small"},
		{"services/gateway/cmd/gateway", "testing", "programs hold no test code"},
		{"services/poller/cmd/poller", "testing", "programs hold no test code"},
		{"services/hostrpc/cmd/hostrpc", "testing", "programs hold no test code"},
	} {
		for _, dep := range deps(t, rule.from) {
			if strings.HasPrefix(dep, rule.not) && !strings.HasPrefix(dep, strings.TrimSuffix(module+rule.from, "/...")) {
				t.Errorf("%s links %s: %s", rule.from, dep, rule.why)
			}
		}
	}
}

// rooms are the packages of the poller, and which of them each may import: an arrow
// that is not here must not be.
var rooms = map[string]string{
	"clock":           "",
	"jq":              "source",
	"source":          "",
	"breaker":         "clock",
	"history":         "clock",
	"lease":           "clock",
	"config":          "breaker jq source source/drivers",
	"record":          "clock history jq lease",
	"ask":             "breaker clock config jq source",
	"walk":            "ask breaker clock config jq record source",
	"poll":            "ask breaker clock config history jq lease record source walk",
	"runner":          "ask breaker clock config history jq lease poll record source source/drivers walk",
	".":               "clock config history lease poll record runner",
	"cmd/poller":      ".",
	"pollertest":      "",
	"clock/clocktest": "clock",
}

// gatewayRooms is the same of the gateway.
var gatewayRooms = map[string]string{
	"ws":          "",
	"ws/wstest":   "",
	"memory":      "",
	"hub":         "memory",
	"frame":       "hub ws",
	"conn":        "frame hub memory",
	"console":     "",
	".":           "conn console frame hub memory ws",
	"cmd/gateway": ".",
}

// The packages of a service import each other in one direction only.
func TestRooms(t *testing.T) {
	checkRooms(t, "services/poller", "source/", rooms) // source: drivers and their tests
	checkRooms(t, "services/gateway", "bench", gatewayRooms)
}

// checkRooms compares the imports of a service's packages with those that they
// may have. It skips the packages whose path begins with skip.
func checkRooms(t *testing.T, service, skip string, rooms map[string]string) {
	t.Helper()
	seen := map[string]bool{}
	for path, file := range goFiles(t, parser.ImportsOnly) {
		room, ok := strings.CutPrefix(filepath.Dir(path), service)
		if !ok || strings.HasSuffix(path, "_test.go") {
			continue
		}
		room = cmp.Or(strings.TrimPrefix(room, "/"), ".")
		if strings.HasPrefix(room, skip) {
			continue
		}
		may, known := rooms[room]
		if !known {
			t.Errorf("%s is in no room: say in rooms what %s may import", path, room)
		}
		seen[room] = true
		for _, imp := range file.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			other, ok := strings.CutPrefix(name, module+service)
			if other = cmp.Or(strings.TrimPrefix(other, "/"), "."); ok && !slices.Contains(strings.Fields(may), other) {
				t.Errorf("%s imports %s: %s may import only %q", path, other, room, may)
			}
		}
	}
	for room := range rooms {
		if !seen[room] {
			t.Errorf("there is no package %s in %s", room, service)
		}
	}
}

// deps lists the packages that a package links, and not those that its modules
// only require.
func deps(t *testing.T, pattern string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", module+pattern)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", pattern, err)
	}
	list := strings.Fields(string(out))
	if len(list) < 10 {
		t.Fatalf("go list -deps %s: have %d packages, which cannot be", pattern, len(list))
	}
	return list
}

// hystrix-go has one place, which knows its traps.
func TestHystrixHasOnePlace(t *testing.T) {
	seen := false
	for path, file := range goFiles(t, parser.ImportsOnly) {
		for _, imp := range file.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil || !strings.HasPrefix(name, "github.com/afex/hystrix-go") {
				continue
			}
			switch path {
			case "services/poller/breaker/hystrix.go":
				seen = true
			case "services/poller/breaker/breaker_test.go":
			default:
				t.Errorf("%s imports %s: only services/poller/breaker/hystrix.go may", path, name)
			}
		}
	}
	if !seen {
		t.Error("services/poller/breaker/hystrix.go does not import hystrix-go: where did the breaker go?")
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	docs := map[string]string{}
	for path, file := range goFiles(t, parser.ParseComments|parser.PackageClauseOnly) {
		dir := filepath.Dir(path)
		if _, ok := docs[dir]; !ok {
			docs[dir] = ""
		}
		if file.Doc != nil {
			docs[dir] += file.Doc.Text()
		}
	}
	for dir, doc := range docs {
		if !strings.HasPrefix(doc, "Package ") && !strings.HasPrefix(doc, "Command ") {
			t.Errorf("%s has no package comment that starts with Package or Command", dir)
		}
	}
}

// goFiles parses every Go file of the modules, by its path from the root.
func goFiles(t *testing.T, mode parser.Mode) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	set := token.NewFileSet()
	for _, top := range []string{"pkg", "services"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata"):
				return filepath.SkipDir
			case d.IsDir() || filepath.Ext(path) != ".go":
				return nil
			}
			file, err := parser.ParseFile(set, path, nil, mode)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, path)
			files[filepath.ToSlash(name)] = file
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}
