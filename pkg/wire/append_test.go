package wire

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire/wirepb"
	"google.golang.org/protobuf/encoding/protojson"
)

// same checks that AppendJSON writes the same frame as encoding/json, and one
// that protobuf's JSON mapping can read.
func same(t *testing.T, f *ServerFrame) {
	t.Helper()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(f); err != nil {
		t.Fatal(err)
	}
	want := bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})
	have, err := f.AppendJSON([]byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	if have, ok := bytes.CutPrefix(have, []byte("before")); !ok || !bytes.Equal(have, want) {
		t.Fatalf("\nhave %s\nwant %s", have, want)
	}
	if err := protojson.Unmarshal(encode(t, embedData(t, want)), new(wirepb.ServerFrame)); err != nil {
		t.Errorf("protojson cannot read %s: %v", want, err)
	}
}

func TestAppendGoldenFrames(t *testing.T) {
	for name, golden := range goldens(t, "server") {
		t.Run(name, func(t *testing.T) {
			var f ServerFrame
			if err := json.Unmarshal(golden, &f); err != nil {
				t.Fatal(err)
			}
			same(t, &f)
			f.ID = 7
			same(t, &f)
		})
	}
}

// Every field is written, each alone and all together. A field that is added to
// the structs and forgotten in AppendJSON is found here.
func TestAppendEveryField(t *testing.T) {
	for _, f := range []func() (*ServerFrame, reflect.Value){
		func() (*ServerFrame, reflect.Value) {
			e := new(Event)
			return &ServerFrame{Event: e}, reflect.ValueOf(e).Elem()
		},
		func() (*ServerFrame, reflect.Value) {
			r := new(event.Freshness)
			return &ServerFrame{Fresh: r}, reflect.ValueOf(r).Elem()
		},
	} {
		all, everything := f()
		same(t, all)
		for i := range everything.NumField() {
			one, single := f()
			for _, v := range []reflect.Value{single.Field(i), everything.Field(i)} {
				fill(t, v)
			}
			same(t, one)
			same(t, all)
		}
	}
}

func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 11, 22, 10, 0, 0, 123_000_000, time.FixedZone("", 3600))))
		return
	case json.RawMessage:
		v.SetBytes([]byte(` { "a b" : [ 1 , "\\\" x" ] } `))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("a\"b\\c\x01\b\f\n\r\t<&>\u2028\u2029é")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(-3)
	case reflect.Uint64:
		v.SetUint(1<<64 - 1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	default:
		t.Fatalf("no value for a field of type %v", v.Type())
	}
}

func FuzzAppend(f *testing.F) {
	f.Add("host.cpu", "sda1", "", []byte(`{"a": [1, "x y"]}`), int64(0), uint64(3), true)
	f.Add("a.\xff\u2028", "\x00\x1f\x7f", "\\\"", []byte(` "\\" `), int64(1_700_000_000_123_456_789), uint64(1<<64-1),
		false)
	f.Fuzz(func(t *testing.T, topic, key, reason string, data []byte, at int64, n uint64, flag bool) {
		if !json.Valid(data) {
			data = nil
		}
		when := time.Unix(0, at).UTC()
		pos := int64(n)
		e := &Event{
			Topic: topic, Seq: n, Version: n / 3, Phase: Phase(reason), ChangedAt: when, AsOf: when.Add(time.Duration(n)),
			AgeMs: at, Stale: flag, Reason: event.Reason(reason),
			Breaker: event.State(key), Deleted: flag, Key: key, Poll: topic, Upstream: reason, Position: &pos,
			Reorganised: !flag, Data: data,
		}
		r := &event.Freshness{
			Poll: topic, AsOf: when, Stale: flag, Reason: event.Reason(reason), Detail: key, Breaker: event.State(reason),
			ConsecutiveFailures: int(int32(n)), IntervalMs: at, MaxAgeMs: at, Fence: n,
		}
		same(t, &ServerFrame{Event: e})
		same(t, &ServerFrame{Fresh: r})
	})
}

func BenchmarkAppendEvent(b *testing.B) {
	now := time.Now().UTC()
	f := &ServerFrame{Event: &Event{
		Topic: "bench.p.k17", Seq: 123456, Version: 97, Phase: Live, ChangedAt: now, AsOf: now, AgeMs: 12,
		Breaker: event.Closed,
		Key:     "k17", Poll: "bench.p", Data: json.RawMessage(`{"at":"1700000000123456789","pad":"xxxxxxxxxxxxxxxxxxxx"}`),
	}}
	b.Run("AppendJSON", func(b *testing.B) {
		b.ReportAllocs()
		for buf := []byte(nil); b.Loop(); {
			buf, _ = f.AppendJSON(buf[:0])
		}
	})
	b.Run("encoding", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = json.Marshal(f)
		}
	})
}
