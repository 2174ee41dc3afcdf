package config

import "testing"

func TestExpand(t *testing.T) {
	env := map[string]string{"A": "1", "EMPTY": "", "ODD": "${A} $$ }", "_x9": "u"}
	for text, want := range map[string]string{
		"":               "",
		"plain":          "plain",
		"${A}":           "1",
		"x${A}y${A}z":    "x1y1z",
		"${EMPTY}":       "",
		"${EMPTY:-d}":    "d",
		"${NONE:-d e:-}": "d e:-",
		"${NONE:-}":      "",
		"${A:-d}":        "1",
		"${ODD}":         "${A} $$ }", // the value of a variable is not expanded
		"${_x9}":         "u",
		"$$":             "$",
		"$${A}":          "${A}",
		"$$${A}":         "$1",
		"$":              "$",
		"a$":             "a$",
		"$A . as $x":     "$A . as $x",
		"^[$]$":          "^[$]$",
	} {
		have := expand(text, env, func(problem, fix string) { t.Errorf("%q: %s; %s", text, problem, fix) })
		if have != want {
			t.Errorf("expand %q: have %q, want %q", text, have, want)
		}
	}
	for text, want := range map[string]string{
		"${NONE}":      "the environment variable NONE is not set",
		"${A}${NONE}":  "the environment variable NONE is not set",
		"${":           "holds ${ without a variable",
		"${}":          "holds ${ without a variable",
		"${A":          "holds ${ without a variable",
		"${1A}":        "holds ${ without a variable",
		"${A-d}":       "holds ${ without a variable",
		"${secret it}": "holds ${ without a variable",
	} {
		var have []string
		expand(text, env, func(problem, _ string) { have = append(have, problem) })
		if len(have) != 1 || have[0] != want {
			t.Errorf("expand %q: have complaints %q, want %q", text, have, want)
		}
	}
}

func TestEscapeIsUndoneByExpand(t *testing.T) {
	for _, want := range []string{"", "$", "$$", "$$$", "${A}", "$${A}", "a$b", "$}{$", "$$x$"} {
		have := expand(escape(want), nil, func(problem, _ string) { t.Errorf("%q: %s", want, problem) })
		if have != want {
			t.Errorf("have %q, want %q", have, want)
		}
	}
}
