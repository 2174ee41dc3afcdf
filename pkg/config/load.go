package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxFile bounds the file: 1 MiB, the limit of a Kubernetes ConfigMap.
const maxFile = 1 << 20

// Source is where settings come from. Its zero value means the defaults only.
type Source struct {
	// File is the name of the YAML file; it is read unless Data is set.
	// Empty: there is no file.
	File string
	// Data is the content of File, if it was read already.
	Data []byte
	// Env is the environment in the form of os.Environ. ${NAME} reads it, and
	// POLLCAST_<PATH> overrides the setting of that path: POLLCAST_GATEWAY_LISTEN
	// overrides gateway.listen. Variables with that prefix that Kubernetes sets
	// for Services are ignored.
	Env []string
	// Reserved are the POLLCAST_ variables that are not settings, such as
	// POLLCAST_CONFIG.
	Reserved []string
	// Sets are the -set flags, each path=value. A map key that holds dots is
	// found if it exists, and is quoted otherwise: poller.sources.a."b.c".x=1.
	Sets []string
}

// Load fills the struct that into points to, which holds the defaults, from
// src. Mistakes in the configuration come back together as an *Error; the
// struct is then half filled and must not be used. It panics on a struct that
// breaks the package's rules for structs.
func Load(into any, src Source) error {
	v := rootOf(into)
	if src.Data == nil && src.File != "" {
		data, err := readFile(src.File)
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		src.Data = data
	}
	l := &loader{into: into, env: environ(src.Env), tainted: map[string]bool{}}
	root := &node{kind: mapping}
	if src.Data != nil {
		root = l.parseFile(src.File, src.Data)
	}
	if root != nil { // a file that is not YAML has no other mistakes
		l.override(v, root, src)
		l.decode(v, root, "")
		l.check(v, root, root.at, "")
	}
	if len(l.problems) == 0 {
		return nil
	}
	return newError(l.problems)
}

// loader is the state of one Load.
type loader struct {
	into     any
	env      map[string]string
	problems []Problem
	tainted  map[string]bool // paths that have a mistake, so that checks need not report them
}

// mistake records a mistake of the setting at path.
func (l *loader) mistake(at place, path, problem, fix string) {
	l.tainted[path] = true
	l.report(at, path, problem, fix)
}

func (l *loader) report(at place, path, problem, fix string) {
	l.problems = append(l.problems, Problem{Place: at.String(), Path: path, Problem: problem, Fix: fix, at: at})
}

func environ(list []string) map[string]string {
	env := make(map[string]string, len(list))
	for _, entry := range list {
		if name, value, ok := strings.Cut(entry, "="); ok {
			env[name] = value
		}
	}
	return env
}

var errTooLarge = errors.New("larger than 1 MiB")

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: %w", name, errTooLarge)
	}
	return data, err
}
