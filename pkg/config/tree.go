package config

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// The bounds of a document, after its aliases are followed.
const (
	maxNodes = 200_000
	maxDepth = 64
)

type shape int

const (
	scalar shape = iota
	mapping
	sequence
)

// node is one value as written: YAML without anchors, and with its place.
type node struct {
	kind    shape
	at      place
	text    string         // scalar: as written
	tag     string         // scalar: its YAML type
	literal bool           // scalar: from an override, where $ is an ordinary character
	items   []*node        // sequence
	entries []entry        // mapping, in the order written
	index   map[string]int // mapping: where in entries
}

type entry struct {
	key   string
	at    place
	value *node
}

func (n *node) null() bool { return n.kind == scalar && n.tag == "!!null" }

// get returns the value at key, nil if n is no mapping or has none.
func (n *node) get(key string) *node {
	if n != nil {
		if i, ok := n.index[key]; ok {
			return n.entries[i].value
		}
	}
	return nil
}

// item returns the value at i, nil if n is no sequence or has none.
func (n *node) item(i int) *node {
	if n != nil && i >= 0 && i < len(n.items) {
		return n.items[i]
	}
	return nil
}

func (n *node) set(key string, at place, value *node) {
	if i, ok := n.index[key]; ok {
		n.entries[i].value = value
		return
	}
	if n.index == nil {
		n.index = map[string]int{}
	}
	n.index[key] = len(n.entries)
	n.entries = append(n.entries, entry{key, at, value})
}

func (n *node) keys() []string {
	var keys []string
	if n != nil {
		for _, e := range n.entries {
			keys = append(keys, e.key)
		}
	}
	return keys
}

// parser turns YAML into nodes. place returns the place of what it reads.
type parser struct {
	*loader
	place   func(line, col int) place
	path    string // of the document
	literal bool
	nodes   int
	open    map[*yaml.Node]bool // anchored values that are being followed
}

// parseFile returns nil if data is no readable document.
func (l *loader) parseFile(file string, data []byte) *node {
	p := &parser{loader: l, place: func(line, col int) place { return place{file, line, col} }}
	root := p.parse(data)
	if root != nil && root.null() {
		l.report(place{name: file}, "", "is empty", "write at least one section, or {} for all defaults")
		return nil
	}
	return root
}

// parse reads the one document in data. It returns nil and reports the reason if
// the text is not YAML or is too large.
func (p *parser) parse(data []byte) *node {
	if len(data) > maxFile {
		p.report(p.place(0, 0), p.path, "is larger than 1 MiB", "")
		return nil
	}
	if line, col, problem, fix := unreadable(data); problem != "" {
		p.report(p.place(line, col), p.path, problem, fix)
		return nil
	}
	doc, next, err := documents(data)
	switch {
	case err != nil:
		line, col, problem, fix := syntax(data, err)
		p.report(p.place(line, col), p.path, problem, fix)
		return nil
	case next.Kind != 0:
		p.report(p.place(next.Line, next.Column), p.path, "a second document starts here", "keep one document in the file")
		return nil
	case doc.Kind == 0:
		return &node{tag: "!!null", at: p.place(1, 1)}
	}
	p.open = map[*yaml.Node]bool{}
	root := p.node(doc.Content[0], p.path, 0)
	if p.nodes > maxNodes {
		p.report(p.place(0, 0), p.path, fmt.Sprintf("holds more than %d values once its aliases are followed", maxNodes),
			"use fewer aliases of aliases")
		return nil
	}
	return root
}

func (p *parser) node(y *yaml.Node, path string, depth int) *node {
	n := &node{at: p.place(y.Line, y.Column), text: y.Value, tag: y.Tag, literal: p.literal}
	if p.nodes++; p.nodes > maxNodes {
		return n
	}
	if depth > maxDepth {
		p.mistake(n.at, path, fmt.Sprintf("is nested deeper than %d levels", maxDepth), "")
		return n
	}
	if y.Style&yaml.TaggedStyle != 0 {
		p.mistake(n.at, path, "has the YAML tag "+show(y.Tag), "remove the tag")
	}
	switch y.Kind {
	case yaml.AliasNode:
		if p.open[y.Alias] {
			p.mistake(n.at, path, fmt.Sprintf("the alias *%s is inside its own anchor", y.Value), "")
			return n
		}
		target := p.node(y.Alias, path, depth)
		target.at = n.at
		return target
	case yaml.MappingNode:
		n.kind = mapping
	case yaml.SequenceNode:
		n.kind = sequence
	default:
		return n
	}
	if y.Anchor != "" {
		p.open[y] = true
		defer delete(p.open, y)
	}
	if n.kind == sequence {
		for i, item := range y.Content {
			n.items = append(n.items, p.node(item, fmt.Sprintf("%s[%d]", path, i), depth+1))
		}
		return n
	}
	for i := 0; i+1 < len(y.Content); i += 2 {
		p.entry(n, y.Content[i], y.Content[i+1], path, depth)
	}
	return n
}

// entry adds one key and its value to the mapping n.
func (p *parser) entry(n *node, key, value *yaml.Node, path string, depth int) {
	at := p.place(key.Line, key.Column)
	if key.Kind == yaml.AliasNode {
		key = key.Alias
	}
	switch i, known := n.index[key.Value]; {
	case key.Kind != yaml.ScalarNode:
		p.report(at, path, "a list or a mapping is used as a key", "keys are text; quote it if it starts with [ or {")
	case key.Tag == "!!merge":
		p.mistake(at, path, "merge keys (<<) are not supported", "write the keys out, or alias a whole value: key: *anchor")
	case key.Tag == "!!null":
		p.report(at, path, "a key is empty", `write key: value, or "" for an empty key`)
	case known:
		p.report(at, path, "duplicate key "+show(key.Value), "it is at "+n.entries[i].at.String()+" already")
	default:
		child := p.node(value, join(path, key.Value), depth+1)
		if child.kind != scalar {
			child.at = at // the place of the key, not of the first value in it
		}
		n.set(key.Value, at, child)
	}
}
