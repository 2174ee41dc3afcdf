package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// mistake is one entry in testdata/mistakes.yaml.
type mistake struct {
	section string
	line    int
	parts   []string // of the message, in this order
}

// TestWrongConfiguration checks that a file full of mistakes is answered with all
// of them, each with its place and a correction, and exit code 2.
func TestWrongConfiguration(t *testing.T) {
	t.Parallel()
	const file = "testdata/mistakes.yaml"
	all := readMistakes(t, file)
	if len(all) < 20 {
		t.Fatalf("%d mistakes in %s", len(all), file)
	}
	for _, tt := range []struct {
		name     string
		bin      string
		args     []string
		sections []string // the sections that the program reads
	}{
		{"pollcast check", bin.pollcast, []string{"check", file}, []string{"nats", "gateway", "hostrpc", "poller", "log"}},
		{"pollcast up", bin.pollcast, []string{"up", "-state", t.TempDir(), "-config", file},
			[]string{"nats", "gateway", "hostrpc", "poller", "log"}},
		{"poller", bin.poller, []string{"-config", file}, []string{"nats", "poller", "log"}},
		{"poller -check", bin.poller, []string{"-check", "-config", file}, []string{"nats", "poller", "log"}},
		{"gateway", bin.gateway, []string{"-config", file}, []string{"nats", "gateway", "log"}},
		{"hostrpc", bin.hostrpc, []string{"-config", file}, []string{"hostrpc", "log"}},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			p := run(t, command{name: tt.name, bin: tt.bin, args: tt.args})
			code, text := p.wait(endTime), p.logs()
			if code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			lines := strings.Split(strings.TrimSpace(text), "\n")
			wanted := 0
			for _, m := range all {
				if !slices.Contains(tt.sections, m.section) {
					continue
				}
				wanted++
				place := fmt.Sprintf("%s:%d:", file, m.line)
				if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, place) && inOrder(l, m.parts) }) {
					t.Errorf("not reported: %s … %q", place, m.parts)
				}
			}
			if len(lines) != wanted {
				t.Errorf("%d lines for %d mistakes", len(lines), wanted)
			}
			if strings.Contains(text, "hunter2") {
				t.Error("the output holds a password")
			}
			if t.Failed() {
				t.Logf("its output:\n%s", text)
			}
		})
	}
}

// readMistakes reads the mistakes from the file's comments.
func readMistakes(t *testing.T, file string) (all []mistake) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	section := ""
	for i, line := range strings.Split(string(data), "\n") {
		if name, _, ok := strings.Cut(line, ":"); ok && line[0] != ' ' && line[0] != '#' {
			section = name
		}
		if _, comment, ok := strings.Cut(line, " #! "); ok {
			for text := range strings.SplitSeq(comment, " | ") {
				all = append(all, mistake{section, i + 1, strings.Split(text, "; ")})
			}
		}
	}
	return all
}

// inOrder reports whether s holds the parts, one after another.
func inOrder(s string, parts []string) bool {
	for _, p := range parts {
		_, after, ok := strings.Cut(s, p)
		if !ok {
			return false
		}
		s = after
	}
	return true
}

// TestGoodConfigurations checks the files that the repository offers.
func TestGoodConfigurations(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		file string
		env  []string
	}{
		{"../../../deploy/config/pollcast.yaml", nil},
		{"../../../deploy/examples/aria2.yaml", []string{"ARIA2_TOKEN=anything"}},
		{"../up/pollcast.yaml", nil},
	} {
		p := run(t, command{name: "pollcast check", bin: bin.pollcast, args: []string{"check", tt.file}, env: tt.env})
		if code := p.wait(endTime); code != 0 {
			t.Errorf("pollcast check %s: exit code %d\n%s", tt.file, code, p.logs())
		}
	}
	p := run(t, command{name: "pollcast check", bin: bin.pollcast,
		args: []string{"check", "../../../deploy/examples/aria2.yaml"}})
	if code, text := p.wait(endTime), p.logs(); code != 2 || !strings.Contains(text, "ARIA2_TOKEN") ||
		!strings.Contains(text, "aria2.yaml:") {
		t.Errorf("without ARIA2_TOKEN: exit code %d\n%s", code, text)
	}
}
