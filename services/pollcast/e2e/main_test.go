package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"go.uber.org/goleak"
)

// cliVariable is the variable that names the `nats` command. Without it the
// command is built from the repository's tools.
const cliVariable = "POLLCAST_NATS_CLI"

// parallel is how many tests run at a time. They wait more than they compute.
const parallel = 8

// bin holds the paths of the binaries.
var bin struct {
	hostrpc, poller, gateway, pollcast, nats string
	natsCLI                                  string
}

func TestMain(m *testing.M) {
	flag.Parse()
	if runtime.GOMAXPROCS(0) < parallel {
		_ = flag.Set("test.parallel", strconv.Itoa(parallel)) // the flag exists and the value is a number
	}
	dir, err := os.MkdirTemp("", "pollcast-e2e-")
	if err == nil {
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		_ = os.RemoveAll(dir) // the build's error is returned
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}))
}

// build builds every binary once. The NATS server has the version that the
// modules use.
func build(dir string) error {
	const services = "github.com/pollcast/pollcast/services/"
	if err := goBuild("", nil, dir+"/",
		services+"hostrpc/cmd/hostrpc", services+"poller/cmd/poller", services+"gateway/cmd/gateway",
		services+"pollcast/cmd/pollcast", "github.com/nats-io/nats-server/v2"); err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	bin.hostrpc, bin.poller, bin.gateway, bin.pollcast, bin.nats = at("hostrpc"), at("poller"), at("gateway"),
		at("pollcast"), at("nats-server")
	if bin.natsCLI = os.Getenv(cliVariable); bin.natsCLI != "" {
		return nil
	}
	bin.natsCLI = at("nats")
	return goBuild("../../../.ci/tools", []string{"GOWORK=off"}, bin.natsCLI, "github.com/nats-io/natscli/nats")
}

func goBuild(dir string, env []string, out string, packages ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-o", out}, packages...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %v: %w\n%s", packages, err, text)
	}
	return nil
}
