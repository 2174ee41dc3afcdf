package wire

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pollcast/pollcast/pkg/event"
)

// A reader of version 1 must accept the additions of later versions.
func TestUnknownFieldsAndFramesAreIgnored(t *testing.T) {
	var f ServerFrame
	in := `{"later":{"x":1},"event":{"topic":"a.b","seq":1,"version":1,"colour":"red","data":null}}`
	if err := json.Unmarshal([]byte(in), &f); err != nil {
		t.Fatal(err)
	}
	if f.Event == nil || f.Event.Topic != "a.b" {
		t.Errorf("have %+v, want the event", f)
	}
}

// Keys that clients read are in every frame, also with false or an empty value.
func TestFreshnessKeysAreAlwaysThere(t *testing.T) {
	for _, frame := range []ServerFrame{
		{Event: &Event{Topic: "a.b", Phase: Live, Breaker: event.Closed}},
		{Fresh: &event.Freshness{Poll: "a.b", Breaker: event.Closed}},
	} {
		b, err := json.Marshal(&frame)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"stale":false`, `"reason":""`, `"breaker":"closed"`} {
			if !strings.Contains(string(b), want) {
				t.Errorf("no %s in %s", want, b)
			}
		}
	}
}

func TestData(t *testing.T) {
	for _, tt := range []struct {
		name string
		data json.RawMessage
		want bool
	}{
		{"null is a value", json.RawMessage("null"), true},
		{"a deletion has none", nil, false},
	} {
		b, err := json.Marshal(&ServerFrame{Event: &Event{Topic: "a.b", Data: tt.data}})
		if err != nil {
			t.Fatal(err)
		}
		if have := strings.Contains(string(b), `"data"`); have != tt.want {
			t.Errorf("%s: have data %v, want %v: %s", tt.name, have, tt.want, b)
		}
	}
}
