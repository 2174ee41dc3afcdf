package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type part struct {
	Listen string `yaml:"listen"`
}

func (p *part) Check(report func(path, problem, fix string)) {
	if p.Listen == "nowhere" {
		report("listen", `"nowhere" is not an address`, "write host:port")
	}
}

func TestExec(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("part: {listen: from-file}\nlog: {format: json}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("part: {lisen: x}"), 0o600); err != nil {
		t.Fatal(err)
	}
	answers := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			http.Error(w, "not ready: no stream", http.StatusServiceUnavailable)
		}
	}))
	defer answers.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for _, tt := range []struct {
		name string
		args string
		env  []string
		run  error
		code int
		want string // in what is printed
	}{
		{"defaults", "", nil, nil, 0, "runs on default"},
		{"file", "-config " + file, nil, nil, 0, `"msg":"runs on from-file"`},
		{"file by environment", "", []string{"POLLCAST_CONFIG=" + file}, nil, 0, "runs on from-file"},
		{"environment over file", "-config " + file, []string{"POLLCAST_PART_LISTEN=from-env"}, nil, 0, "runs on from-env"},
		{"flag over environment", "-set part.listen=from-flag", []string{"POLLCAST_PART_LISTEN=from-env"}, nil, 0,
			"runs on from-flag"},
		{"mistake", "-set part.listen=nowhere", nil, nil, 2, `"nowhere" is not an address; write host:port`},
		{"all mistakes", "-set part.listen=nowhere -set log.level=loud", nil, nil, 2, "write debug, info, warn or error"},
		{"unknown key", "-set part.lisen=x", nil, nil, 2, `did you mean "listen"`},
		{"places first", "-config " + bad, nil, nil, 2, "^" + bad + ":1:8:"},
		{"no such file", "-config /nowhere/c.yaml", nil, nil, 2, "/nowhere/c.yaml"},
		{"unknown flag", "-port 1", nil, nil, 2, "-port"},
		{"argument", "serve", nil, nil, 2, `"serve" is not understood`},
		{"version", "-version", nil, errors.New("must not run"), 0, "^test "},
		{"help", "-help", nil, nil, 0, "-healthcheck"},
		{"failure", "", nil, errors.New("the port is taken"), 1, "the port is taken"},
		{"check", "-check", nil, errors.New("must not run"), 0, "the configuration is good"},
		{"print", "-print-config", nil, errors.New("must not run"), 0, "listen: default"},
		{"healthy", "-healthcheck " + answers.URL + "/healthz", nil, nil, 0, ""},
		{"not healthy", "-healthcheck " + answers.URL + "/readyz", nil, nil, 1, "not ready: no stream"},
		{"nobody there", "-healthcheck http://127.0.0.1:1/", nil, nil, 1, "refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := struct {
				Part part `yaml:"part"`
				Log  Log  `yaml:"log"`
			}{part{"default"}, DefaultLog()}
			var out bytes.Buffer
			code := Exec(t.Context(), Service{
				Name: "test", Config: &cfg, Log: &cfg.Log,
				Run: func(_ context.Context, log *slog.Logger, reg *prometheus.Registry) error {
					log.Info("runs on " + cfg.Part.Listen)
					return tt.run
				},
			}, strings.Fields(tt.args), tt.env, &out, &out)
			printed := "^" + out.String()
			if code != tt.code || !strings.Contains(printed, tt.want) {
				t.Errorf("exit code %d, output:\n%s\nwant %d and %q", code, out.String(), tt.code, tt.want)
			}
		})
	}
}

func TestTogether(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var order []string
	part := func(name string, err error) func(context.Context) error {
		return func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, name)
			return err
		}
	}
	boom := errors.New("boom")
	cancel()
	err := Together(ctx, part("a", nil), part("b", boom), part("c", nil))
	if have := strings.Join(order, ""); have != "abc" || !errors.Is(err, boom) {
		t.Errorf("stopped in the order %s with %v, want abc with boom", have, err)
	}
	// The first part that ends by itself ends the others.
	err = Together(t.Context(), part("d", nil), func(context.Context) error { return boom })
	if !errors.Is(err, boom) {
		t.Errorf("have %v, want boom", err)
	}
}
