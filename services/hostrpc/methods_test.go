package hostrpc

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"
)

func TestBind(t *testing.T) {
	params := []param{
		{Name: "limit", Type: typeInteger, Default: 10, Min: new(1), Max: new(50)},
		{Name: "by", Type: typeString, Default: "cpu", Enum: []string{"cpu", "memory"}},
		{Name: "note", Type: typeString},
	}
	defaults := args{"limit": 10, "by": "cpu"}
	for _, c := range []struct {
		send    string
		want    args
		problem string
	}{
		{``, defaults, ""},
		{`{}`, defaults, ""},
		{`[]`, defaults, ""},
		{`[5]`, args{"limit": 5, "by": "cpu"}, ""},
		{`[5,"memory"]`, args{"limit": 5, "by": "memory"}, ""},
		{`[null,"memory","x"]`, args{"limit": 10, "by": "memory", "note": "x"}, ""},
		{`{"by":"memory"}`, args{"limit": 10, "by": "memory"}, ""},
		{`{"limit":50}`, args{"limit": 50, "by": "cpu"}, ""},
		{`{"limit":5.0}`, args{"limit": 5, "by": "cpu"}, ""},
		{`{"limit":1e1}`, defaults, ""},
		{`{"limit":null}`, defaults, ""},
		{`{"limit":0}`, nil, "limit: 0 is outside 1 to 50"},
		{`{"limit":51}`, nil, "limit: 51 is outside 1 to 50"},
		{`{"limit":1.5}`, nil, "limit: 1.5 is not an integer"},
		{`{"limit":1e999}`, nil, "limit: 1e999 is not an integer"},
		{`{"limit":"5"}`, nil, `limit: "5" is not an integer`},
		{`{"by":"disk"}`, nil, `by: "disk" is not one of cpu, memory`},
		{`{"by":1}`, nil, `by: 1 is not a string`},
		{`{"Limit":5}`, nil, `"Limit" is no parameter, the method takes limit, by, note`},
		{`[1,"cpu","x",4]`, nil, "4 values were sent"},
	} {
		have, err := bind(params, json.RawMessage(c.send))
		switch {
		case c.problem == "" && (err != nil || !maps.Equal(have, c.want)):
			t.Errorf("%s: have %v, %v, want %v", c.send, have, err, c.want)
		case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
			t.Errorf("%s: have error %v, want %q", c.send, err, c.problem)
		}
	}
	if _, err := bind([]param{{Name: "x", Type: typeString, Required: true}}, json.RawMessage(`[null]`)); err == nil ||
		err.Error() != "x is missing" {
		t.Errorf("have error %v, want that x is missing", err)
	}
	if _, err := bind(nil, json.RawMessage(`[1]`)); err == nil || !strings.Contains(err.Error(), "takes none") {
		t.Errorf("have error %v, want that the method takes none", err)
	}
	if _, err := bind(params, json.RawMessage(`{"`+strings.Repeat("x", 5000)+`":1}`)); err == nil ||
		len(err.Error()) > 300 {
		t.Errorf("have an error that repeats what was sent: %v", err)
	}
}

func TestMethodsList(t *testing.T) {
	type described struct {
		Name        string
		Description string
		Params      []param
	}
	names := func(s *testServer) (all []string) {
		for _, m := range result[[]described](s, "rpc.methods", "") {
			if m.Description == "" || m.Params == nil {
				t.Errorf("%s has no description or no list of params", m.Name)
			}
			all = append(all, m.Name)
		}
		return all
	}
	want := "system.status storage.list network.list process.top system.time rpc.methods"
	if have := strings.Join(names(start(t, Options{})), " "); have != want {
		t.Errorf("have %s\nwant %s", have, want)
	}
	want += " fault.set fault.list fault.clear"
	if have := strings.Join(names(start(t, faultsAllowed())), " "); have != want {
		t.Errorf("have %s\nwant %s", have, want)
	}
}

func TestSystemTime(t *testing.T) {
	s := start(t, Options{})
	first := result[clock](s, "system.time", "")
	now, err := time.Parse(time.RFC3339, first.Now)
	if err != nil {
		t.Fatalf("now: %v", err)
	}
	if off := time.Since(now).Abs(); off > patience {
		t.Errorf("now is %s off", off)
	}
	eventually(t, "the counter advances", func() bool {
		return result[clock](s, "system.time", "").Counter > first.Counter
	})
}
