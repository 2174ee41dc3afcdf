package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// natsCLI runs the `nats` command to its end and returns its output and its exit
// code. It does not read the user's configuration.
func natsCLI(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	home := t.TempDir()
	p := run(t, command{
		name: "nats " + args[0], bin: bin.natsCLI, args: args, rough: true,
		env: []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home},
	})
	code = p.wait(patience)
	return p.stdout.String(), p.stderr.String(), code
}

// printed is a message as `nats sub` prints it.
type printed struct {
	subject string
	header  map[string]string
	data    string
}

// parsePrinted parses the output of `nats sub`:
//
//	[#1] Received on "pollcast.live.host.storage.list"
//	ce-specversion: 1.0
//	…
//	(empty line)
//	{"volumes":[…]}
func parsePrinted(t *testing.T, out string) (all []printed) {
	t.Helper()
	for _, part := range strings.Split("\n"+out, "\n[#")[1:] {
		lines := strings.Split(part, "\n")
		_, subject, ok := strings.Cut(lines[0], `Received on "`)
		if !ok {
			t.Fatalf("nats sub printed %q, which is no message", lines[0])
		}
		p := printed{subject: strings.TrimSuffix(subject, `"`), header: map[string]string{}}
		i := 1
		for ; i < len(lines) && lines[i] != ""; i++ {
			if name, value, ok := strings.Cut(lines[i], ": "); ok {
				p.header[name] = value
			}
		}
		p.data = strings.TrimSpace(strings.Join(lines[i:], "\n"))
		all = append(all, p)
	}
	return all
}

// wantCloudEvent checks a message against the NATS binding of CloudEvents 1.0 in
// binary mode and against Pollcast's own attributes.
func wantCloudEvent(t *testing.T, m printed) {
	t.Helper()
	about := strings.TrimPrefix(m.subject, "pollcast.live.")
	kind := "pollcast.event.v1"
	if rest, ok := strings.CutSuffix(about, "._fresh"); ok {
		about, kind = rest, "pollcast.freshness.v1"
	} else if rest, ok := strings.CutSuffix(about, "._breaker"); ok {
		about, kind = rest, "pollcast.breaker.v1"
	}
	for name, want := range map[string]string{
		"ce-specversion": "1.0", "ce-type": kind, "ce-subject": about, "ce-source": "/pollcast/host",
		"ce-datacontenttype": "application/json", "Nats-Stream": "POLLCAST",
	} {
		if have := m.header[name]; have != want {
			t.Errorf("%s: header %s is %q, want %q", m.subject, name, have, want)
		}
	}
	names, times := []string{"ce-id", "ce-fence", "Nats-Sequence"}, []string{"ce-time"}
	if kind == "pollcast.event.v1" {
		names, times = append(names, "ce-version"), append(times, "ce-asof", "ce-changedat")
	}
	for _, name := range names {
		if m.header[name] == "" {
			t.Errorf("%s: header %s is missing", m.subject, name)
		}
	}
	for _, name := range times {
		if at, err := time.Parse(time.RFC3339Nano, m.header[name]); err != nil || time.Since(at) > time.Minute {
			t.Errorf("%s: header %s is %q, want a time of this minute", m.subject, name, m.header[name])
		}
	}
	if !json.Valid([]byte(m.data)) {
		t.Errorf("%s: the payload is not JSON: %s", m.subject, m.data)
	}
}
