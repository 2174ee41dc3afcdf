package wire

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pollcast/pollcast/pkg/wire/wirepb"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Every golden frame has the same meaning in both formats.
func TestProtoMeansTheSame(t *testing.T) {
	files, err := filepath.Glob("../../proto/golden/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden frames: %v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(filepath.Base(file), "client") {
			var want, have ClientFrame
			if err := json.Unmarshal(text, &want); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			var pb wirepb.ClientFrame
			if err := protojson.Unmarshal(text, &pb); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			b, err := proto.Marshal(&pb)
			if err != nil {
				t.Fatal(err)
			}
			if err := have.UnmarshalProto(b); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			h, _ := json.Marshal(have)
			w, _ := json.Marshal(want)
			if string(h) != string(w) {
				t.Errorf("%s:\nhave %s\nwant %s", file, h, w)
			}
			continue
		}
		var f ServerFrame
		if err := json.Unmarshal(text, &f); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		b, err := f.MarshalProto()
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var have, want wirepb.ServerFrame
		if err := proto.Unmarshal(b, &have); err != nil {
			t.Fatal(err)
		}
		if f.Event != nil && f.Event.Data != nil {
			var m map[string]map[string]json.RawMessage
			if err := json.Unmarshal(text, &m); err != nil {
				t.Fatal(err)
			}
			m["event"]["data"], _ = json.Marshal(base64.StdEncoding.EncodeToString(f.Event.Data))
			text, _ = json.Marshal(m)
		}
		if err := protojson.Unmarshal(text, &want); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if !proto.Equal(&have, &want) {
			t.Errorf("%s:\nhave %v\nwant %v", file, &have, &want)
		}
	}
}
