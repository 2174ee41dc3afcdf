package drivers_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/drivers"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
)

// overHTTP are the drivers over HTTP. Driver grpc is in grpc_test.go.
var overHTTP = map[string]sourcetest.HTTP{
	"jsonrpc": {
		Call:      source.Call{Method: "m", Params: json.RawMessage(`[1]`)},
		Body:      answerRPC,
		WrongType: `["not","an","object"]`,
	},
	"http": {
		Call: source.Call{Path: "/status"},
		Body: func(_ *http.Request, value string) string { return value },
	},
}

// answerRPC answers single calls and batches.
func answerRPC(r *http.Request, value string) string {
	type call struct{ ID int }
	one := func(c call) string { return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":%s}`, c.ID, value) }
	body, _ := io.ReadAll(r.Body)
	var calls []call
	if json.Unmarshal(body, &calls) != nil {
		var c call
		_ = json.Unmarshal(body, &c)
		return one(c)
	}
	var all []string
	for _, c := range calls {
		all = append(all, one(c))
	}
	return "[" + strings.Join(all, ",") + "]"
}

func TestSuite(t *testing.T) {
	for name, driver := range drivers.All {
		if name == "grpc" {
			t.Run(name, func(t *testing.T) { sourcetest.Run(t, overGRPC(driver)) })
			continue
		}
		h, ok := overHTTP[name]
		if !ok {
			t.Errorf("driver %s is not tested", name)
			continue
		}
		h.Driver = driver
		t.Run(name, func(t *testing.T) { sourcetest.RunHTTP(t, h) })
		if h.Batch = driver.Batches; h.Batch {
			t.Run(name+" in batches", func(t *testing.T) { sourcetest.RunHTTP(t, h) })
		}
	}
}
