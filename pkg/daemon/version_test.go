package daemon

import (
	"runtime/debug"
	"testing"
)

func TestBuild(t *testing.T) {
	revision := debug.BuildSetting{Key: "vcs.revision", Value: "1d0184eca7284772d5bf377ce5b3cc82ccc95a7a"}
	for want, info := range map[string]debug.BuildInfo{
		"(devel)": {Main: debug.Module{Version: "(devel)"}},
		"v1.2.3":  {Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{revision}},
		"1d0184eca728": {Main: debug.Module{Version: "(devel)"},
			Settings: []debug.BuildSetting{revision, {Key: "vcs.modified", Value: "false"}}},
		"1d0184eca728+": {Settings: []debug.BuildSetting{{Key: "vcs.modified", Value: "true"}, revision}},
	} {
		if have := build(&info); have != want {
			t.Errorf("have %s, want %s", have, want)
		}
	}
}
