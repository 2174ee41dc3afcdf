package config

import "testing"

// reporter reports what the test wants.
type reporter struct {
	Items   map[string]reporterItem `yaml:"items"`
	List    []reporterItem          `yaml:"list"`
	reports []string
}

type reporterItem struct {
	URL string `yaml:"url"`
}

func (r reporter) Check(report func(path, problem, fix string)) {
	for _, path := range r.reports {
		report(path, "is wrong", "")
	}
}

func TestReportedPathsFindTheirPlace(t *testing.T) {
	const text = "items:\n  a.b:\n    url: u\n  c: {}\nlist:\n  - url: v\n  - url: [bad]\n"
	const bad = "f:7:5: list[1].url: a list where text is wanted; write a single value, \"\" for none"
	for path, want := range map[string]string{
		"":                   "f:1:1: is wrong",
		"items":              "f:1:1: items: is wrong",
		"items.a.b.url":      `f:3:10: items."a.b".url: is wrong`,
		`items."a.b".url`:    `f:3:10: items."a.b".url: is wrong`,
		"items.c.url":        "f:4:3: items.c.url: is wrong",
		"items.none.url":     "f:1:1: items.none.url: is wrong",
		"list[0].url":        "f:6:10: list[0].url: is wrong",
		"list[0]":            "f:6:5: list[0]: is wrong",
		"list[1].url":        "", // is reported as bad already
		"list[1]":            "f:7:5: list[1]: is wrong",
		"list[9].url":        "f:5:1: list[9].url: is wrong",
		"list[x].url":        "f:5:1: list[x].url: is wrong",
		"[":                  `f:1:1: "[": is wrong`,
		"list[":              `f:5:1: list."[": is wrong`,
		"items.":             `f:1:1: items."": is wrong`,
		"a\nb":               `f:1:1: "a\nb": is wrong`,
		"items.a.b.url.deep": `f:3:10: items."a.b".url.deep: is wrong`,
	} {
		err := Load(&reporter{reports: []string{path}}, Source{File: "f", Data: []byte(text)})
		switch {
		case want == "":
			want = bad
		case want < bad:
			want = lines(want, bad)
		default:
			want = lines(bad, want)
		}
		wantError(t, err, want)
	}
}

func TestChecksReachEveryValue(t *testing.T) {
	cfg := struct {
		Map  map[string]*reporter `yaml:"map"`
		List []reporter           `yaml:"list"`
		Ptr  **reporter           `yaml:"ptr"`
		Nil  *reporter            `yaml:"nil"`
	}{
		Map:  map[string]*reporter{"b": {reports: []string{"url"}}, "a": {reports: []string{""}}, "none": nil},
		List: []reporter{{reports: []string{"x"}}},
		Ptr:  new(&reporter{reports: []string{"y"}}),
	}
	wantError(t, Load(&cfg, Source{}), lines("map.a: is wrong", "map.b.url: is wrong", "list[0].x: is wrong",
		"ptr.y: is wrong"))
}
