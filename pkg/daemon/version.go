package daemon

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// release is the version of a build without a repository, such as that of an
// image:
//
//	go build -ldflags="-X github.com/pollcast/pollcast/pkg/daemon.release=v1.2.3"
var release string

// Version returns a line about the program called name: what it was built from,
// the toolchain and the platform.
func Version(name string) string {
	return fmt.Sprintf("%s %s %s %s/%s", name, Build(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Build returns what the program was built from: its version or its commit, with
// a + when the tree was changed, or "(devel)" when that is unknown.
func Build() string {
	info, ok := debug.ReadBuildInfo()
	if release != "" || !ok {
		return cmp.Or(release, "(devel)")
	}
	return build(info)
}

func build(info *debug.BuildInfo) string {
	const devel = "(devel)"
	if v := info.Main.Version; v != "" && v != devel {
		return v
	}
	commit, changed := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+"
		}
	}
	if commit == "" {
		return devel
	}
	return commit + changed
}
