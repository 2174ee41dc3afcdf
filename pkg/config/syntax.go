package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// documents returns the first two documents of data; Kind is 0 for a missing one.
func documents(data []byte) (doc, next yaml.Node, err error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	if err = decoder.Decode(&doc); err == nil {
		err = decoder.Decode(&next)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return doc, next, err
}

// unreadable finds the characters that yaml.v3 reports without a line.
func unreadable(data []byte) (line, col int, problem, fix string) {
	for i, r := range string(data) {
		switch {
		case r == utf8.RuneError && !bytes.HasPrefix(data[i:], []byte("\uFFFD")):
			line, col = position(data, i)
			return line, col, "is not UTF-8", "save the file as UTF-8"
		case unicode.IsControl(r) && !strings.ContainsRune("\n\r\t\u0085", r):
			line, col = position(data, i)
			return line, col, fmt.Sprintf("holds the control character %U", r),
				"remove it, or write it as an escape in double quotes"
		}
	}
	return 0, 0, "", ""
}

var (
	yamlError   = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)
	yamlAnchor  = regexp.MustCompile(`^unknown anchor '(.*)' referenced`)
	indentation = regexp.MustCompile(`(?m)^ *\t`)
)

// syntax returns what yaml.v3's err means and where. yaml.v3 omits the line if it
// is the first. The errors of its parser, but not of its scanner, give the line
// where the enclosing block starts, counted from 0.
func syntax(data []byte, err error) (line, col int, problem, fix string) {
	m := yamlError.FindStringSubmatch(err.Error())
	if m == nil {
		return 0, 0, err.Error(), ""
	}
	line, _ = strconv.Atoi(m[1])
	line, problem, fix = max(line, 1), "is not YAML: "+m[2], "check the indentation, brackets and quotes up to here"

	if anchor := yamlAnchor.FindStringSubmatch(m[2]); anchor != nil {
		line, col = position(data, max(0, bytes.Index(data, []byte("*"+anchor[1]))))
		return line, col, "the alias *" + anchor[1] + " has no anchor before it",
			"write &" + anchor[1] + " at the value it stands for, or quote text that starts with *"
	}
	if strings.Contains(m[2], "tab character") || strings.Contains(m[2], "cannot start any token") {
		from := lineStart(data, line)
		if tab := indentation.FindIndex(data[from:lineStart(data, line+2)]); tab != nil {
			line, col = position(data, from+tab[1]-1)
			return line, col, "a tab is used for indentation", "use spaces"
		}
	}
	if strings.HasPrefix(m[2], "did not find expected") {
		// The first line whose absence makes the error disappear.
		line = 1 + sort.Search(bytes.Count(data, []byte("\n")), func(i int) bool {
			_, _, part := documents(data[:lineStart(data, i+2)])
			return part != nil && part.Error() == err.Error()
		})
	}
	return line, 0, problem, fix
}

// lineStart returns where the line, counted from 1, starts.
func lineStart(data []byte, line int) int {
	at := 0
	for range line - 1 {
		next := bytes.IndexByte(data[at:], '\n')
		if next < 0 {
			return len(data)
		}
		at += next + 1
	}
	return at
}

func position(data []byte, offset int) (line, col int) {
	before := data[:offset]
	return 1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
}
