package config

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Field is one setting, for a reference.
type Field struct {
	Path    string // gateway.listen; <name> stands for a map's key, [] for a list's element
	Type    string // string, bool, integer, number, duration, size, secret, any, section, "list of ..." or "map of ..."
	Default string // "" if there is none
	Doc     string // the doc tag
	Env     string // the variable that overrides it; "" inside lists
}

// Describe returns every setting of the struct that into points to, in the order
// of its fields, a section before its settings. Defaults are the values in into.
// Sections of other services are left out.
func Describe(into any) []Field {
	var all []Field
	describe(rootOf(into), "", EnvPrefix, &all)
	return all
}

// describe adds the settings in v. env is the prefix of their variables.
func describe(v reflect.Value, path, env string, all *[]Field) {
	switch kindOf(v.Type()) {
	case pointer:
		describe(targetOf(v), path, env, all)
	case list:
		describe(fresh(v.Type().Elem()), path+"[]", "", all)
	case table:
		describe(fresh(v.Type().Elem()), path+".<name>", under(env, "<NAME>"), all)
	case section:
		for _, f := range fieldsOf(v.Type()) {
			if kindOf(f.typ) == other {
				continue
			}
			value, here, inside := v.Field(f.index), join(path, f.name), under(env, envPart(f.name))
			*all = append(*all, Field{here, typeName(f.typ), defaultText(value), f.doc, strings.TrimSuffix(inside, "_")})
			describe(value, here, inside, all)
		}
	}
}

func under(env, part string) string {
	if env == "" {
		return "" // settings in a list have no variable
	}
	return env + part + "_"
}

func typeName(t reflect.Type) string {
	switch k := kindOf(t); k {
	case pointer:
		return typeName(t.Elem())
	case list, table:
		return kinds[k].name + " of " + typeName(t.Elem())
	default:
		return kinds[k].name
	}
}

// jsonValue returns v as JSON would hold it, without secrets; nil if there is
// nothing to show.
func jsonValue(v reflect.Value) any {
	switch kindOf(v.Type()) {
	case secret, other:
		return nil
	case duration:
		return durationText(time.Duration(v.Int()))
	case size:
		return Size(v.Int()).String()
	case custom:
		if m, ok := v.Addr().Interface().(encoding.TextMarshaler); ok {
			if text, err := m.MarshalText(); err == nil {
				return string(text)
			}
		}
		return nil
	case pointer:
		if v.IsNil() {
			return nil
		}
		return jsonValue(v.Elem())
	case list:
		if v.Len() == 0 {
			return nil
		}
		items := make([]any, v.Len())
		for i := range items {
			items[i] = jsonValue(v.Index(i))
		}
		return items
	case table:
		if v.Len() == 0 {
			return nil
		}
		m := map[string]any{}
		for _, key := range mapKeys(v, nil) {
			m[key] = jsonValue(entryOf(v, key))
		}
		return m
	case section:
		m := map[string]any{}
		for _, f := range fieldsOf(v.Type()) {
			if value := jsonValue(v.Field(f.index)); value != nil {
				m[f.name] = value
			}
		}
		return m
	}
	return v.Interface()
}

func defaultText(v reflect.Value) string {
	if settingKind(v.Type()) == section {
		return "" // its settings have their own rows
	}
	switch value := jsonValue(v).(type) {
	case nil:
		return ""
	case string:
		return value
	default:
		var b bytes.Buffer
		encoder := json.NewEncoder(&b)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(value)
		return strings.Trim(b.String(), "\n")
	}
}

// durationText returns d without the zeros at the end of String: 5m, not 5m0s.
func durationText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Reference writes Describe as Markdown, one table per section.
func Reference(into any) string {
	var b strings.Builder
	inTable := false
	cell := strings.NewReplacer("|", `\|`, "\n", " ", "<", `\<`).Replace
	for _, f := range Describe(into) {
		if f.Type == kinds[section].name && strings.ContainsAny(f.Path, ".[") && f.Doc == "" {
			continue // its keys are rows
		}
		if f.Type == kinds[section].name && !strings.ContainsAny(f.Path, ".[") {
			fmt.Fprintf(&b, "\n## `%s`\n", f.Path)
			if f.Doc != "" {
				fmt.Fprintf(&b, "\n%s\n", f.Doc)
			}
			inTable = false
			continue
		}
		if !inTable {
			b.WriteString("\n| key | type | default | meaning |\n|---|---|---|---|\n")
			inTable = true
		}
		value := ""
		if f.Default != "" {
			value = "`" + strings.ReplaceAll(f.Default, "|", `\|`) + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Path, f.Type, value, cell(f.Doc))
	}
	return strings.TrimPrefix(b.String(), "\n")
}

// Print writes the configuration that into points to as YAML that Load can read,
// with [redacted] in place of its secrets, which Load refuses. from is where it
// was loaded from, if it was. Plain text that holds a ${NAME} there, such as the
// password in a URL, is printed as it is written. Other passwords in URLs are
// redacted.
func Print(into any, from ...Source) ([]byte, error) {
	var root yaml.Node
	if err := root.Encode(rootOf(into).Interface()); err != nil {
		return nil, fmt.Errorf("print configuration: %w", err)
	}
	escapeValues(&root)
	for _, src := range from {
		written, err := writtenAt(into, src)
		if err != nil {
			return nil, fmt.Errorf("print configuration: %w", err)
		}
		showReferences(rootOf(into), &root, written)
	}
	hideUserinfos(&root)
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(&root); err != nil {
		return nil, fmt.Errorf("print configuration: %w", err)
	}
	return b.Bytes(), nil
}

// escapeValues escapes ${ in text, so that Load does not take it for a variable.
func escapeValues(n *yaml.Node) {
	n.Value = escape(n.Value)
	for i, child := range n.Content {
		if n.Kind != yaml.MappingNode || i%2 == 1 {
			escapeValues(child)
		}
	}
}

// writtenAt reads src again, as text; nil if there is nothing to read.
func writtenAt(into any, src Source) (*node, error) {
	if src.Data == nil && src.File != "" {
		data, err := readFile(src.File)
		if err != nil {
			return nil, err
		}
		src.Data = data
	}
	if src.Data == nil {
		return nil, nil
	}
	l := &loader{env: environ(src.Env), tainted: map[string]bool{}}
	root := l.parseFile(src.File, src.Data)
	if root != nil {
		l.override(rootOf(into), root, src) // overridden values do not come from the file
	}
	return root, nil
}

// showReferences replaces plain text in v that came from variables by the text of
// n, which names them.
func showReferences(v reflect.Value, y *yaml.Node, n *node) {
	if n == nil {
		return
	}
	switch k := kindOf(v.Type()); k {
	case pointer:
		if !v.IsNil() {
			showReferences(v.Elem(), y, n)
		}
	case section, table:
		for i := 0; y.Kind == yaml.MappingNode && i+1 < len(y.Content); i += 2 {
			key := y.Content[i].Value
			if k == table {
				showReferences(entryOf(v, key), y.Content[i+1], n.get(key))
			} else if f, ok := fieldNamed(v, key); ok {
				showReferences(f, y.Content[i+1], n.get(key))
			}
		}
	case list:
		for i := 0; y.Kind == yaml.SequenceNode && i < min(len(y.Content), v.Len()); i++ {
			showReferences(v.Index(i), y.Content[i], n.item(i))
		}
	case text:
		if n.kind == scalar && !n.literal && strings.Contains(n.text, "${") {
			y.Value, y.Style = n.text, 0
		}
	}
}
