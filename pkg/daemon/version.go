package daemon

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version is a line about the program called name: the version that Go stamped
// it with, which names the commit, the toolchain and the platform. What was
// built outside of a repository is "(devel)".
func Version(name string) string {
	version := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	return fmt.Sprintf("%s %s %s %s/%s", name, cmp.Or(version, "(devel)"), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
