package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// badFiles has one file of testdata/bad per mistake, and the exact message.
// FILE stands for the file's name.
var badFiles = map[string]string{
	"alias_self": `FILE:6:39: poller.sources.a.polls.x.params[1]: the alias *p is inside its own anchor`,
	"alias_unknown": `FILE:3:12: the alias *nowhere has no anchor before it; ` +
		`write &nowhere at the value it stands for, or quote text that starts with *`,
	"bool_yes": `FILE:2:13: gateway.compress: yes is not true or false; write true or false`,
	"check_default": `FILE:6:9: poller.sources.host.polls.x.timeout: 2s is longer than the interval 1s; ` +
		`use at most 800ms`,
	"check_leaf": `FILE:9:20: poller.sources.host.polls.x.timeout: 12s is longer than the interval 10s; ` +
		`use at most 8s`,
	"check_list": `FILE:6:11: poller.sources.host.upstreams[1].url: is missing`,
	"check_missing": lines(
		`FILE:3:5: poller.sources.host.upstreams: is empty; name at least one upstream`,
		`FILE:5:9: poller.sources.host.polls."system.status".method: is missing; name the method to call`,
	),
	"check_moot": lines(
		`FILE:4:18: poller.sources.host.upstreams: a single value where a list is wanted; `+
			`write [a, b], or one "- item" a line, [] for none`,
		`FILE:6:13: poller.sources.host.polls.x.method: a list where text is wanted; write a single value, "" for none`,
		`FILE:6:26: poller.sources.host.polls.x: unknown key "timout"; did you mean "timeout"?`,
	),
	"control": `FILE:2:13: holds the control character U+0007; ` +
		`remove it, or write it as an escape in double quotes`,
	"custom_text":       `FILE:2:10: log.level: slog: level string "loud": unknown name`,
	"duplicate_key":     `FILE:3:3: gateway: duplicate key listen; it is at FILE:2:3 already`,
	"duplicate_section": `FILE:3:1: duplicate key log; it is at FILE:1:1 already`,
	"duration_no_unit": `FILE:6:34: poller.sources.host.polls.x.interval: 10 has no unit; ` +
		`write one such as 250ms, 5s or 1m30s`,
	"duration_nonsense": `FILE:4:26: poller.sources.host.breaker.openFor: "five minutes" is not a duration; ` +
		`write one such as 250ms, 5s or 1m30s`,
	"empty": `FILE: is empty; write at least one section, or {} for all defaults`,
	"empty_key": `FILE:2: is not YAML: did not find expected key; ` +
		`check the indentation, brackets and quotes up to here`,
	"free_hex": lines(
		`FILE:6:33: poller.sources.host.polls.x.params[0]: 0x1b4 is a number to YAML that JSON cannot hold exactly; `+
			`quote it to send it as text, or write it in decimal`,
		`FILE:6:40: poller.sources.host.polls.x.params[1]: 007 is a number to YAML that JSON cannot hold exactly; `+
			`quote it to send it as text, or write it in decimal`,
		`FILE:6:45: poller.sources.host.polls.x.params[2]: .inf is a number to YAML that JSON cannot hold exactly; `+
			`quote it to send it as text, or write it in decimal`,
	),
	"integer_fraction": `FILE:2:15: gateway.maxClients: 1.5 is not a whole number; write digits only`,
	"integer_range": `FILE:2:15: gateway.maxClients: 3000000000 is out of range; ` +
		`use a number from -2147483648 to 2147483647`,
	"integer_text":     `FILE:2:15: gateway.maxClients: many is not a whole number; write digits only`,
	"list_at_root":     `FILE:1:1: a list where a mapping is wanted; write "key: value" lines beneath it`,
	"list_for_scalar":  `FILE:2:3: gateway.listen: a list where text is wanted; write a single value, "" for none`,
	"list_for_section": `FILE:1:1: gateway: a list where a mapping is wanted; write "key: value" lines beneath it`,
	"list_key": `FILE:2:5: gateway: a list or a mapping is used as a key; keys are text; ` +
		`quote it if it starts with [ or {`,
	"many": lines(
		`FILE:1:1: unknown key "gatway"; did you mean "gateway"?`,
		`FILE:2:18: nats.replicas: x is not a whole number; write digits only`,
		`FILE:2:21: nats.token: a list where text is wanted; write a single value such as ${NAME}, "" for none`,
		`FILE:4:13: gateway.compress: maybe is not true or false; write true or false`,
		`FILE:5:11: gateway.listen: is empty; name an address such as :12080`,
		`FILE:6:14: log.level: slog: level string "3.5": unknown name`,
	),
	"mapping_for_scalar": `FILE:2:3: log.level: a mapping where text is wanted; write a single value, "" for none`,
	"merge_key": `FILE:5:7: poller.sources.b: merge keys (<<) are not supported; ` +
		`write the keys out, or alias a whole value: key: *anchor`,
	"no_value": lines(
		`FILE:2:10: gateway.listen: has no value; write a single value, "" for none`,
		`FILE:3:11: gateway.origins: has no value; write [a, b], or one "- item" a line, [] for none`,
	),
	"not_utf8": `FILE:2:12: is not UTF-8; save the file as UTF-8`,
	"null_key": `FILE:2:3: gateway: a key is empty; write key: value, or "" for an empty key`,
	"number_nan": `FILE:6:19: poller.sources.host.upstreams[0].weight: .nan is not a number; ` +
		`write one such as 0.5`,
	"number_text": `FILE:6:19: poller.sources.host.upstreams[0].weight: heavy is not a number; ` +
		`write one such as 0.5`,
	"only_comments": `FILE: is empty; write at least one section, or {} for all defaults`,
	"scalar_for_list": `FILE:2:12: gateway.origins: a single value where a list is wanted; ` +
		`write [a, b], or one "- item" a line, [] for none`,
	"scalar_for_map": `FILE:2:12: poller.sources: a single value where a mapping is wanted; ` +
		`write "key: value" lines beneath it`,
	"scalar_for_section": `FILE:1:10: gateway: a single value where a mapping is wanted; ` +
		`write "key: value" lines beneath it`,
	"secret_redacted": `FILE:2:10: nats.token: "[redacted]" stands for a secret in a printed configuration; ` +
		`write the secret itself, or ${NAME}`,
	"size_unit": `FILE:2:13: gateway.maxFrame: 1MB is not a size; ` +
		`write bytes as a whole number, or with KiB, MiB, GiB or TiB`,
	"syntax_first_line": `FILE:1: is not YAML: mapping values are not allowed in this context; ` +
		`check the indentation, brackets and quotes up to here`,
	"syntax_flow": `FILE:2: is not YAML: did not find expected ',' or ']'; ` +
		`check the indentation, brackets and quotes up to here`,
	"syntax_indent": `FILE:4: is not YAML: did not find expected key; ` +
		`check the indentation, brackets and quotes up to here`,
	"syntax_list": `FILE:5: is not YAML: could not find expected ':'; ` +
		`check the indentation, brackets and quotes up to here`,
	"syntax_quote": `FILE:2: is not YAML: found unexpected end of stream; ` +
		`check the indentation, brackets and quotes up to here`,
	"tab":           `FILE:2:1: a tab is used for indentation; use spaces`,
	"tab_later":     `FILE:3:2: a tab is used for indentation; use spaces`,
	"tag":           `FILE:2:11: gateway.listen: has the YAML tag !!str; remove the tag`,
	"two_documents": `FILE:2:1: a second document starts here; keep one document in the file`,
	"unknown_key":   `FILE:6:24: poller.sources.host.polls.x: unknown key "intervall"; did you mean "interval"?`,
	"unknown_key_above": lines(
		`FILE:1:1: unknown key "sources"; it belongs into poller`,
		`FILE:3:3: log: unknown key "gateway"; it is a section of its own; write it without indentation`,
	),
	"unknown_key_below": lines(
		`FILE:5:7: poller.sources.host: unknown key "failures"; it belongs into poller.sources.host.breaker`,
		`FILE:6:7: poller.sources.host: unknown key "interval"; it belongs into poller.sources.host.polls.<name>`,
		`FILE:8:36: poller.sources.host.polls."system.status": unknown key "headers"; it belongs into poller.sources.host`,
	),
	"unknown_key_case": `FILE:2:3: gateway: unknown key "max_clients"; did you mean "maxClients"?`,
	"unknown_key_far": `FILE:2:3: gateway: unknown key "colour"; ` +
		`known keys are listen, origins, maxClients, maxFrame, compress`,
	"unknown_section":   `FILE:1:1: unknown key "gatway"; did you mean "gateway"?`,
	"unsigned_negative": `FILE:2:13: nats.replicas: -1 is out of range; use a number from 0 to 255`,
	"variable_custom":   `FILE:2:10: log.level: the value of ${SECRET_TEXT} is not valid here`,
	"variable_form": `FILE:2:8: nats.url: holds ${ without a variable; ` +
		`write ${NAME} or ${NAME:-default}, or $${ for the characters themselves`,
	"variable_open": `FILE:2:10: nats.token: holds ${ without a variable; ` +
		`write ${NAME} or ${NAME:-default}, or $${ for the characters themselves`,
	"variable_structure": `FILE:2:12: gateway.origins: a single value where a list is wanted; ` +
		`write [a, b], or one "- item" a line, [] for none`,
	"variable_type": `FILE:2:15: gateway.maxClients: ${SECRET_TEXT} is not a whole number; write digits only`,
	"variable_unset": lines(
		`FILE:2:10: nats.token: the environment variable NOT_SET is not set; set it, or write ${NOT_SET:-default}`,
		`FILE:2:10: nats.token: the environment variable NOR_THIS is not set; set it, or write ${NOR_THIS:-default}`,
	),
}

func lines(l ...string) string { return strings.Join(l, "\n") }

func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if have, want := len(files), len(badFiles); have != want {
		t.Errorf("have %d files in testdata/bad, want %d, one for each message", have, want)
	}
	for name, want := range badFiles {
		t.Run(name, func(t *testing.T) {
			file := name + ".yaml"
			data, err := os.ReadFile(filepath.Join("testdata/bad", file))
			if err != nil {
				t.Fatal(err)
			}
			cfg := defaults()
			err = Load(&cfg, Source{File: file, Data: data, Env: []string{"SECRET_TEXT=hunter2", "A_LIST=[a, b]"}})
			wantError(t, err, strings.ReplaceAll(want, "FILE", file))
		})
	}
}
