package pollcast_test

import (
	"encoding/json"
	"go/ast"
	"go/token"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway"
	"github.com/pollcast/pollcast/services/hostrpc"
	"github.com/pollcast/pollcast/services/pollcast/up"
	"github.com/pollcast/pollcast/services/poller"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// pages returns the pages that users read, by path from the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "proto/*.md", "deploy/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			name, err := filepath.Rel(root, file)
			if err != nil {
				t.Fatal(err)
			}
			out[filepath.ToSlash(name)] = read(t, name)
		}
	}
	return out
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Every metric is in the manual, and every metric in the manual exists.
func TestMetricsAreInTheManual(t *testing.T) {
	exist := map[string]bool{}
	named := regexp.MustCompile(`fqName: "([^"]+)"`)
	for _, reg := range registries(t) {
		descs := make(chan *prometheus.Desc, 1000)
		reg.Describe(descs)
		close(descs)
		for d := range descs {
			exist[named.FindStringSubmatch(d.String())[1]] = true
		}
	}
	if len(exist) < 20 {
		t.Fatalf("have %d metrics, which cannot be all", len(exist))
	}
	written := map[string]bool{}
	for _, m := range regexp.MustCompile("`(pollcast_[a-z]+_[a-z_]+)`").FindAllStringSubmatch(read(t,
		"docs/monitoring.md"), -1) {
		if m[1] != "pollcast_leases" {
			written[m[1]] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(exist)) {
		if !written[name] {
			t.Errorf("%s is not in docs/monitoring.md", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(written)) {
		if !exist[name] {
			t.Errorf("docs/monitoring.md has %s, which does not exist", name)
		}
	}
}

// registries creates each service, so that it registers its metrics.
func registries(t *testing.T) []*prometheus.Registry {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	regs := []*prometheus.Registry{prometheus.NewRegistry(), prometheus.NewRegistry(), prometheus.NewRegistry()}

	gw := gateway.DefaultConfig()
	gw.Listen, gw.Operations = "127.0.0.1:0", ""
	g, err := gateway.New(gateway.Options{Config: gw, NATS: bus.DefaultConfig(), Logger: log, Registry: regs[0]})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := poller.New(t.Context(), poller.Options{
		Registerer: regs[1],
		Config: poller.Config{Sources: map[string]poller.Source{"docs": {
			Upstreams: []string{"http://127.0.0.1:1/"}, Polls: map[string]poller.Poll{"test": {Method: "m"}},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	host := hostrpc.DefaultConfig()
	host.Listen = "127.0.0.1:0"
	h, err := hostrpc.New(t.Context(), hostrpc.Options{Config: host, Registerer: regs[2]})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	return regs
}

// The source contains every message that the manual quotes. A quotation is `code`
// of three words or more that is no command. Numbers, names in quotation marks
// and ... stand for variable parts.
func TestQuotedMessagesExist(t *testing.T) {
	var literals []string
	for path, file := range goFiles(t, 0) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil {
					literals = append(literals, s)
				}
			}
			return true
		})
	}
	code := regexp.MustCompile("`([^`\n]+)`")
	command := regexp.MustCompile(`^(nats|curl|pollcast|go|make|docker|kubectl|GET|HEAD|POST) `)
	varies := regexp.MustCompile(`[0-9][0-9.,]*|"[^"]*"|\.\.\.`)
	quoted := 0
	for _, page := range []string{"docs/troubleshooting.md", "docs/operations.md", "docs/monitoring.md", "docs/limits.md", "docs/nats.md"} {
		for _, m := range code.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Count(m[1], " ") < 2 || command.MatchString(m[1]) {
				continue
			}
			quoted++
			for _, part := range varies.Split(m[1], -1) {
				part = strings.TrimSpace(part)
				if len(part) > 4 && !slices.ContainsFunc(literals, func(s string) bool { return strings.Contains(s, part) }) {
					t.Errorf("%s quotes %q; no text in the source holds %q", page, m[1], part)
				}
			}
		}
	}
	if quoted < 20 {
		t.Errorf("found %d quotations, which cannot be all", quoted)
	}
}

// Every configuration in a page or under deploy is valid.
func TestConfigurationExamples(t *testing.T) {
	files := certificates(t)
	check := func(name, text string) {
		var env []string
		for _, v := range regexp.MustCompile(`[^$]\$\{([A-Z0-9_]+)`).FindAllStringSubmatch(text, -1) {
			env = append(env, v[1]+"=test-value")
		}
		cfg := up.DefaultConfig()
		text = strings.ReplaceAll(text, "/etc/pollcast/", files+"/")
		if err := config.Load(&cfg, config.Source{File: name, Data: []byte(text), Env: env}); err != nil {
			t.Errorf("the example is not a good configuration:\n%s\n%v", text, err)
		}
	}
	block := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")
	found := 0
	for page, text := range pages(t) {
		for _, m := range block.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "poller:") {
				found++
				check(page, m[1])
			}
		}
	}
	if found < 3 {
		t.Errorf("found %d examples, which cannot be all", found)
	}
	examples, err := filepath.Glob(filepath.Join(root, "deploy/examples/*.yaml"))
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples under deploy/examples (%v)", err)
	}
	for _, file := range append(examples, filepath.Join(root, "deploy/config/pollcast.yaml")) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		check(file, string(text))
	}
}

// certificates returns a folder with the files that examples name.
func certificates(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	authority := sourcetest.NewAuthority(t, "examples")
	cert, key := authority.Now("client").Files()
	for name, from := range map[string]string{"ca.pem": authority.File(), "client.pem": cert, "client-key.pem": key} {
		if err := os.Rename(from, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{{
		Name: new("shop.proto"), Package: new("shop.v1"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: new("Request")}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: new("Orders"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: new("Count"), InputType: new(".shop.v1.Request"), OutputType: new(".shop.v1.Request")},
		}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "shop.binpb"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The frames in the protocol's description are frames: lines "> {...}" from a
// client, "< {...}" from a gateway.
func TestFramesInTheProtocol(t *testing.T) {
	line := regexp.MustCompile(`(?m)^ *([<>]) (\{.*\})$`)
	found := line.FindAllStringSubmatch(read(t, "docs/protocol.md"), -1)
	if len(found) < 10 {
		t.Fatalf("found %d frames, which cannot be all", len(found))
	}
	for _, m := range found {
		var frame any = new(wire.ServerFrame)
		if m[1] == ">" {
			frame = new(wire.ClientFrame)
		}
		d := json.NewDecoder(strings.NewReader(m[2]))
		d.DisallowUnknownFields()
		if err := d.Decode(frame); err != nil {
			t.Errorf("%s\n%v", m[0], err)
		}
	}
}

// Links between pages have a target, also the heading that they name.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	drop := regexp.MustCompile(`[^a-z0-9 _-]`)
	all := pages(t)
	for page, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := page
			if target != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(page), target))
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil {
				t.Errorf("%s links to %s, which is not there", page, m[1])
				continue
			}
			if anchor == "" {
				continue
			}
			found := slices.ContainsFunc(heading.FindAllStringSubmatch(all[to], -1), func(h []string) bool {
				return strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-") == anchor
			})
			if !found {
				t.Errorf("%s links to %s: no such heading", page, m[1])
			}
		}
	}
}

// The schema and the reference are those of this configuration. CI compares the
// whole pages; this test is faster.
func TestGeneratedConfigurationPages(t *testing.T) {
	cfg := up.DefaultConfig()
	if have := read(t, "docs/pollcast.schema.json"); have != string(config.JSONSchema(&cfg))+"\n" {
		t.Error("docs/pollcast.schema.json is not that of the configuration: run make gen")
	}
	if !strings.Contains(read(t, "docs/settings.md"), config.Reference(&cfg)) {
		t.Error("docs/settings.md is not that of the configuration: run make gen")
	}
}
