package up

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// What a client may not do is its mistake; what the server says is an attribute
// of a line that can be searched for.
func TestNATSLog(t *testing.T) {
	var out bytes.Buffer
	l := &natsLog{slog.New(slog.NewTextHandler(&out, nil))}
	for want, say := range map[string]func(){
		`level=WARN msg="a NATS client may not do what it tried" text="127.0.0.1:1 - cid:21 - Publish Violation - Subject`: func() {
			l.Errorf("%s - Publish Violation - Subject %q", "127.0.0.1:1 - cid:21", "a")
		},
		`level=ERROR msg="the NATS server reports an error" text="disk %!s gone"`: func() { l.Errorf("%s", "disk %!s gone") },
		`level=WARN msg="the NATS server warns" text="slow 3"`:                    func() { l.Warnf("slow %d", 3) },
		`level=ERROR msg="the NATS server reports an error" text=over`:            func() { l.Fatalf("over") },
	} {
		out.Reset()
		if say(); !strings.Contains(out.String(), want) {
			t.Errorf("have %s, want %s", out.String(), want)
		}
	}
}
