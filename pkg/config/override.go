package config

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// EnvPrefix starts the name of every variable that overrides a setting.
const EnvPrefix = "POLLCAST_"

// override writes the values of the environment and then of the flags into the
// tree, so that they are decoded, checked and placed like the file's.
func (l *loader) override(v reflect.Value, root *node, src Source) {
	l.overrideEnv(v, root, src.Reserved)
	for _, set := range src.Sets {
		l.overrideSet(v, root, set)
	}
}

func (l *loader) overrideEnv(v reflect.Value, root *node, reserved []string) {
	names := slices.Sorted(maps.Keys(l.env)) // sorted: a section comes before its parts
	names = slices.DeleteFunc(names, func(name string) bool {
		return !strings.HasPrefix(name, EnvPrefix) || slices.Contains(reserved, name)
	})
	if len(names) == 0 {
		return
	}
	known := map[string][]target{}
	settings(v, root, nil, func(t target) { known[envName(t.keys)] = append(known[envName(t.keys)], t) })
	for _, name := range names {
		at := place{name: name}
		switch found := known[name]; {
		case len(found) == 1:
			l.put(root, found[0], l.env[name], at)
		case len(found) > 1:
			l.report(at, "", fmt.Sprintf("could mean %s or %s", found[0], found[1]), "use -set, which can tell them apart")
		case !isOthers(name, known) && !isServiceLink(name, l.env[name]):
			fix := "a setting's variable is " + EnvPrefix + " and its path in capitals, such as POLLCAST_GATEWAY_LISTEN"
			bare := func(s string) string { return strings.TrimPrefix(s, EnvPrefix) }
			var candidates []string
			for other := range known {
				candidates = append(candidates, bare(other))
			}
			slices.Sort(candidates)
			if near := nearest(bare(name), candidates); near != "" {
				fix = "did you mean " + EnvPrefix + near + "?"
			}
			l.report(at, "", "no setting has this name", fix)
		}
	}
}

// isOthers reports whether name is a setting of another service's section.
func isOthers(name string, known map[string][]target) bool {
	for prefix, targets := range known {
		if targets[0].kind == other && strings.HasPrefix(name, prefix+"_") {
			return true
		}
	}
	return false
}

var serviceLink = regexp.MustCompile(`_SERVICE_(HOST|PORT)(_|$)|_PORT_[0-9]+_(TCP|UDP|SCTP)`)

// isServiceLink reports whether Kubernetes (or Docker's links) set the variable:
// they set some in every container for every Service of the namespace. A Service
// called pollcast-gateway makes POLLCAST_GATEWAY_PORT=tcp://10.0.0.1:80 and so
// on.
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
func isServiceLink(name, value string) bool {
	return serviceLink.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

func (l *loader) overrideSet(v reflect.Value, root *node, set string) {
	path, value, ok := strings.Cut(set, "=")
	at := place{name: "-set " + path}
	if !ok {
		l.report(place{name: "-set"}, "", "a flag has no =", "write -set path=value, such as -set gateway.listen=:8080")
		return
	}
	var keys []string
	created := false // keys names a map entry that did not exist
	n, more := root, true
	for more {
		here := target{keys: keys}.String()
		switch k := kindOf(v.Type()); k {
		case pointer:
			v = targetOf(v)
			continue
		case section:
			var key string
			key, path, more = cut(path, func(string) bool { return false })
			f, ok := fieldNamed(v, key)
			if !ok && created {
				l.report(at, here, "unknown key "+strconv.Quote(clip(key)),
					`quote a new key that holds dots, as in polls."a.b".interval`)
				return
			}
			if !ok {
				l.unknown(v.Type(), n, at, here, key)
				return
			}
			v, keys, n = f, append(keys, key), n.get(key)
		case table:
			exists := func(key string) bool { return n.get(key) != nil || mapIndex(v, key).IsValid() }
			var key string
			key, path, more = cut(path, exists)
			created = !exists(key)
			v, keys, n = entryOf(v, key), append(keys, key), n.get(key)
		case other:
			l.report(at, here, "belongs to another service", "give the flag to that one")
			return
		default:
			l.report(at, here, fmt.Sprintf("takes %s, so %s cannot be set inside it", kinds[k].noun, show(path)),
				"set it as a whole")
			return
		}
	}
	l.put(root, target{keys: keys, kind: settingKind(v.Type())}, value, at)
}

// target is a setting that an override may name.
type target struct {
	keys []string
	kind kind // never pointer
}

func (t target) String() string {
	path := ""
	for _, key := range t.keys {
		path = join(path, key)
	}
	return path
}

// settings yields every setting below v and n, with the map entries of both.
// Elements of lists are not settings.
func settings(v reflect.Value, n *node, keys []string, yield func(target)) {
	k := kindOf(v.Type())
	if k == pointer {
		settings(targetOf(v), n, keys, yield)
		return
	}
	if len(keys) > 0 {
		yield(target{slices.Clone(keys), k})
	}
	switch k {
	case section:
		for _, f := range fieldsOf(v.Type()) {
			settings(v.Field(f.index), n.get(f.name), append(keys, f.name), yield)
		}
	case table:
		for _, key := range mapKeys(v, n) {
			settings(entryOf(v, key), n.get(key), append(keys, key), yield)
		}
	}
}

// mapKeys returns the keys of the map v and of the mapping n, sorted.
func mapKeys(v reflect.Value, n *node) []string {
	keys := n.keys()
	for _, key := range v.MapKeys() {
		keys = append(keys, key.String())
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func settingKind(t reflect.Type) kind {
	for kindOf(t) == pointer {
		t = t.Elem()
	}
	return kindOf(t)
}

// envName returns the variable that overrides the setting at keys.
func envName(keys []string) string {
	return EnvPrefix + envPart(strings.Join(keys, "_"))
}

// envPart returns a key in the form that the names of variables have.
func envPart(key string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, strings.ToUpper(key))
}

// put writes value at the target's keys. For a list, a map, a struct or any value
// it is YAML, usually in flow style: [a, b].
func (l *loader) put(root *node, t target, value string, at place) {
	n := &node{at: at, text: value, literal: true}
	switch t.kind {
	case list, table, section, free:
		p := &parser{loader: l, place: func(int, int) place { return at }, path: t.String(), literal: true}
		if n = p.parse([]byte(value)); n == nil {
			return
		}
	}
	into, last := root, len(t.keys)-1
	for _, key := range t.keys[:last] {
		child := into.get(key)
		switch {
		case child == nil || child.null():
			child = &node{kind: mapping, at: at}
			into.set(key, at, child)
		case child.kind != mapping:
			return // a mistake of the file, which decoding reports
		}
		into = child
	}
	into.merge(t.keys[last], at, n)
}

// merge sets key to value. Two mappings are merged key by key.
func (n *node) merge(key string, at place, value *node) {
	if old := n.get(key); old != nil && old.kind == mapping && value.kind == mapping {
		for _, e := range value.entries {
			old.merge(e.key, at, e.value)
		}
		return
	}
	n.set(key, at, value)
}
