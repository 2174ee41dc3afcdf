package wire

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pollcast/pollcast/pkg/event"
)

// table returns the rows of the table under a heading of proto/wire.md,
// without its head, cells trimmed.
func table(t *testing.T, heading string) [][]string {
	t.Helper()
	b, err := os.ReadFile("../../proto/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(b), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("proto/wire.md: no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var rows [][]string
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	if len(rows) < 2 {
		t.Fatalf("proto/wire.md: no table under %q", heading)
	}
	return rows[1:]
}

// constants returns the constants of a type that code.go declares: name to
// literal.
func constants(t *testing.T, typ string) map[string]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "code.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			if id, ok := v.Type.(*ast.Ident); ok && id.Name == typ {
				out[v.Names[0].Name] = v.Values[0].(*ast.BasicLit).Value
			}
		}
	}
	return out
}

func TestCloseCodes(t *testing.T) {
	inGo := map[int]bool{}
	for name, lit := range constants(t, "CloseCode") {
		n, err := strconv.Atoi(lit)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		inGo[n] = true
	}
	for _, row := range table(t, "Close codes") {
		n, err := strconv.Atoi(row[0])
		if err != nil {
			t.Fatalf("proto/wire.md: close code %q is no number", row[0])
		}
		code := CloseCode(n)
		if have, want := code.String(), row[1]; have != want {
			t.Errorf("%d: have name %q, want %q", n, have, want)
		}
		if have, want := code.Reconnect(), row[2] == "yes"; have != want {
			t.Errorf("%d: have reconnect %v, want %v", n, have, want)
		}
		if !inGo[n] {
			t.Errorf("%d: in proto/wire.md, not in code.go", n)
		}
		delete(inGo, n)
	}
	for n := range inGo {
		t.Errorf("%d: in code.go, not in proto/wire.md", n)
	}
}

// A code that is in no table follows the ranges.
func TestUnknownCloseCodes(t *testing.T) {
	for code, want := range map[CloseCode]bool{1006: true, 1011: true, 3000: true, 4000: true, 4499: true, 4500: false,
		4999: false} {
		if have := code.Reconnect(); have != want {
			t.Errorf("%d: have reconnect %v, want %v", code, have, want)
		}
	}
	if have, want := CloseCode(4321).String(), "unknown"; have != want {
		t.Errorf("have %q, want %q", have, want)
	}
}

func TestErrorCodes(t *testing.T) {
	inGo := map[string]bool{}
	for name, lit := range constants(t, "ErrorCode") {
		s, err := strconv.Unquote(lit)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		inGo[s] = true
	}
	for _, row := range table(t, "Error codes") {
		if have, want := ErrorCode(row[0]).Retryable(), row[1] == "yes"; have != want {
			t.Errorf("%s: have retryable %v, want %v", row[0], have, want)
		}
		if !inGo[row[0]] {
			t.Errorf("%s: in proto/wire.md, not in code.go", row[0])
		}
		delete(inGo, row[0])
	}
	for _, s := range slices.Sorted(maps.Keys(inGo)) {
		t.Errorf("%s: in code.go, not in proto/wire.md", s)
	}
}

func TestReasons(t *testing.T) {
	var want []event.Reason
	for _, row := range table(t, "Reasons of staleness") {
		want = append(want, event.Reason(row[0]))
	}
	if !slices.Equal(event.Reasons, want) {
		t.Errorf("have %v, want %v as in proto/wire.md", event.Reasons, want)
	}
}
