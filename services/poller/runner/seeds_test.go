package runner

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var (
	replaySeed = flag.Uint64("seed", 0, "run the property tests with this seed only")
	randomRuns = flag.Int("runs", 25, "how many random seeds each property test tries")
)

// eachSeed runs a property with the seeds that once failed, which
// testdata/seeds keeps, and then with random ones. A seed that fails is
// printed and kept; commit the file.
func eachSeed(t *testing.T, run func(*testing.T, *rand.Rand)) {
	t.Helper()
	file := filepath.Join("testdata", "seeds", t.Name()+".txt")
	kept := readSeeds(t, file)
	seeds := kept
	if *replaySeed != 0 {
		kept, seeds = []uint64{*replaySeed}, []uint64{*replaySeed}
	} else {
		for range *randomRuns {
			seeds = append(seeds, rand.Uint64())
		}
	}
	for i, seed := range seeds {
		ok := t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { run(t, rand.New(rand.NewPCG(seed, 0))) })
		if !ok && i >= len(kept) {
			t.Logf("to repeat it: go test -run '^%s$' -seed %d", t.Name(), seed)
			keepSeed(t, file, seed)
		}
	}
}

func readSeeds(t *testing.T, file string) (seeds []uint64) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		seeds = append(seeds, seed)
	}
	return seeds
}

func keepSeed(t *testing.T, file string, seed uint64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Logf("the seed is not kept: %v", err)
		return
	}
	defer func() { _ = f.Close() }()
	if _, err := fmt.Fprintln(f, seed); err != nil {
		t.Logf("the seed is not kept: %v", err)
	}
}
