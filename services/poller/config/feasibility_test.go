package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestWriteFeasibility(t *testing.T) {
	var b strings.Builder
	err := WriteFeasibility(&b, Config{Sources: map[string]Source{
		"host": {Upstreams: []string{"http://127.0.0.1:12090/"}, Polls: map[string]Poll{"system.status": {Method: "m"}}},
		"btc": {Upstreams: []string{"https://one"}, Retries: 2, MaxCallsPerMinute: 20, Polls: map[string]Poll{
			"fees": {Method: "m", Interval: 10 * time.Second},
		}},
		"eth": {Hedge: time.Second, Upstreams: []string{"https://one/v3/0123456789abcdef", "https://two/"}, Polls: map[string]Poll{
			"head": {Method: "m", Interval: 2 * time.Second}, "gas": {Method: "m", Interval: time.Hour},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := `
POLL                INTERVAL  TIMEOUT  ATTEMPTS   STALE WITHIN  OPEN WITHIN  PROBE AFTER  RECOVERED WITHIN  POLLER DEAD  CALLS/MIN
btc.fees            10s       8s       3 x 2.56s  18.1s         58.1s        5m1s         5m17s             30s          6.0
eth.gas             1h        10s      2 x 5s     1h0m11s       11.7s        5m1s         1h0m11s           3h           0.017
eth.head            2s        1.6s     2 x 800ms  3.64s         11.7s        5m1s         5m23s             6s           30
host.system.status  5s        4s       1          9.1s          29.1s        5m1s         5m9s              15s          12

SOURCE  UPSTREAM                CALLS/MIN  AT MOST  QUOTA  WHILE OPEN
btc     https://one             6.0        18       20     0.2
eth     https://one             30         31       none   0.2
eth     https://two             30         31       none   0.2         only while those before it are out or slow
host    http://127.0.0.1:12090  12         12       none   0.2
`
	if have := "\n" + b.String(); have != want {
		t.Errorf("have%s\nwant%s", have, want)
	}
	if err := WriteFeasibility(failing{}, Config{Sources: map[string]Source{"a": {}}}); err == nil {
		t.Error("no error of the writer")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, fmt.Errorf("disk full") }
