package config

import (
	"slices"
	"testing"
)

func TestDiffer(t *testing.T) {
	type inner struct {
		Listen string         `yaml:"listen"`
		Token  Secret         `yaml:"token"`
		Names  map[string]int `yaml:"names"`
	}
	type all struct {
		A    inner `yaml:"a"`
		B    inner `yaml:"b,omitempty"`
		Rest Other `yaml:"rest"`
		Note string
	}
	one := all{A: inner{"x", NewSecret("s"), map[string]int{"k": 1}}, Note: "no setting"}
	same := all{A: inner{"x", NewSecret("s"), map[string]int{"k": 1}}}
	if have := Differ(one, same); have != nil {
		t.Errorf("equal ones differ in %q", have)
	}
	other := all{A: inner{"x", NewSecret("t"), map[string]int{"k": 2}}, B: inner{Listen: "y"}}
	if have, want := Differ(&one, &other), []string{"a.token", "a.names", "b.listen"}; !slices.Equal(have, want) {
		t.Errorf("have %q, want %q", have, want)
	}
}
