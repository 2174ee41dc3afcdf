package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pollcast/pollcast/pkg/wire/wirepb"
)

const goldenDir = "../../proto/golden"

// goldens returns the golden frames of one side ("client" or "server") by file
// name. They are the examples that every implementation of the protocol reads.
func goldens(t *testing.T, side string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(goldenDir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		name := filepath.Base(f)
		switch {
		case strings.HasPrefix(name, side+"_"):
		case strings.HasPrefix(name, "client_"), strings.HasPrefix(name, "server_"):
			continue
		default:
			t.Fatalf("%s: a golden frame's name starts with client_ or server_", f)
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = bytes.TrimSpace(b)
	}
	return out
}

func TestGoldenClientFrames(t *testing.T) {
	testGolden(t, "client", func() (any, proto.Message) { return &ClientFrame{}, &wirepb.ClientFrame{} })
}

func TestGoldenServerFrames(t *testing.T) {
	testGolden(t, "server", func() (any, proto.Message) { return &ServerFrame{}, &wirepb.ServerFrame{} })
}

func testGolden(t *testing.T, side string, blank func() (any, proto.Message)) {
	seen := map[string]bool{}
	for name, golden := range goldens(t, side) {
		t.Run(name, func(t *testing.T) {
			frame, msg := blank()
			decodeStrict(t, golden, frame)
			if have := encode(t, frame); !bytes.Equal(have, golden) {
				t.Errorf("encoded again:\nhave %s\nwant %s", have, golden)
			}

			var want map[string]any
			decodeStrict(t, golden, &want)
			if err := protojson.Unmarshal(encode(t, embedData(t, golden)), msg); err != nil {
				t.Fatalf("decode with protojson: %v", err)
			}
			compare(t, "", want, msg.ProtoReflect())

			kinds := 0
			for key := range want {
				if key != "id" {
					kinds++
					seen[key] = true
				}
			}
			if kinds != 1 {
				t.Errorf("have %d kinds of frame in one, want 1", kinds)
			}
		})
	}
	_, msg := blank()
	fields := msg.ProtoReflect().Descriptor().Oneofs().ByName("frame").Fields()
	for i := range fields.Len() {
		if name := fields.Get(i).JSONName(); !seen[name] {
			t.Errorf("no golden frame of kind %q", name)
		}
	}
}

// TestGoldenBinary sends every frame through protobuf's binary encoding and
// back, the way pollcast.v1.proto does.
func TestGoldenBinary(t *testing.T) {
	for name, golden := range goldens(t, "server") {
		var a, b wirepb.ServerFrame
		if err := protojson.Unmarshal(encode(t, embedData(t, golden)), &a); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		raw, err := proto.Marshal(&a)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := proto.Unmarshal(raw, &b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !proto.Equal(&a, &b) {
			t.Errorf("%s: binary changed it: have %v, want %v", name, &b, &a)
		}
	}
}

// embedData turns an event's embedded data into the form of a bytes field in
// protojson: base64 of the JSON text. Nothing else differs.
func embedData(t *testing.T, golden []byte) map[string]json.RawMessage {
	t.Helper()
	var frame, ev map[string]json.RawMessage
	decodeStrict(t, golden, &frame)
	if frame["event"] == nil {
		return frame
	}
	decodeStrict(t, frame["event"], &ev)
	if data, ok := ev["data"]; ok {
		ev["data"] = fmt.Appendf(nil, "%q", base64.StdEncoding.EncodeToString(data))
	}
	frame["event"] = encode(t, ev)
	return frame
}

// compare reports every difference between a JSON object and a message: a key
// without a field, another value, and a field that is set without a key.
func compare(t *testing.T, path string, obj map[string]any, msg protoreflect.Message) {
	t.Helper()
	fields := msg.Descriptor().Fields()
	for key, want := range obj {
		fd := fields.ByJSONName(key)
		if fd == nil {
			t.Errorf("%s%s: no such field in %s", path, key, msg.Descriptor().Name())
			continue
		}
		have := msg.Get(fd)
		switch {
		case fd.IsList():
			for i, w := range want.([]any) {
				if i >= have.List().Len() || have.List().Get(i).String() != w {
					t.Errorf("%s%s[%d]: have %v, want %v", path, key, i, have, w)
				}
			}
			if have.List().Len() != len(want.([]any)) {
				t.Errorf("%s%s: have %d items, want %d", path, key, have.List().Len(), len(want.([]any)))
			}
		case fd.Kind() == protoreflect.BytesKind:
			var value any
			decodeStrict(t, have.Bytes(), &value)
			if h, w := encode(t, value), encode(t, want); !bytes.Equal(h, w) {
				t.Errorf("%s%s: have %s, want %s", path, key, h, w)
			}
		case fd.Kind() == protoreflect.MessageKind:
			if ts, ok := have.Message().Interface().(*timestamppb.Timestamp); ok {
				w, err := time.Parse(time.RFC3339Nano, want.(string))
				if err != nil || !ts.AsTime().Equal(w) {
					t.Errorf("%s%s: have %v, want %v (%v)", path, key, ts.AsTime(), want, err)
				}
				continue
			}
			if !msg.Has(fd) {
				t.Errorf("%s%s: not set", path, key)
			}
			compare(t, path+key+".", want.(map[string]any), have.Message())
		default: // numbers, strings, booleans
			if h, w := fmt.Sprint(have.Interface()), fmt.Sprint(want); h != w {
				t.Errorf("%s%s: have %s, want %s", path, key, h, w)
			}
		}
	}
	msg.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if _, ok := obj[fd.JSONName()]; !ok {
			t.Errorf("%s%s: set to %v without being in the JSON", path, fd.JSONName(), v)
		}
		return true
	})
}

func decodeStrict(t *testing.T, b []byte, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		t.Fatalf("decode %s: %v", b, err)
	}
	if d.More() {
		t.Fatalf("decode %s: more than one value", b)
	}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSpace(b.Bytes())
}
