package source_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
)

// Every driver there is must be here.
var protocols = map[string]sourcetest.Protocol{
	"jsonrpc": {
		Call: source.Call{Method: "m", Params: json.RawMessage(`[1]`)},
		Answer: func(r *http.Request, value string) string {
			var q struct{ ID int }
			_ = json.NewDecoder(r.Body).Decode(&q)
			return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":%s}`, q.ID, value)
		},
		WrongType: `["not","an","object"]`,
	},
	"http": {
		Call:   source.Call{Path: "/status"},
		Answer: func(_ *http.Request, value string) string { return value },
	},
}

func TestSuite(t *testing.T) {
	for name, driver := range source.Drivers {
		p, ok := protocols[name]
		if !ok {
			t.Errorf("driver %s is not tested", name)
			continue
		}
		p.Driver = driver
		t.Run(name, func(t *testing.T) { sourcetest.Run(t, p) })
	}
}
