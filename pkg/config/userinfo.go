package config

import (
	"regexp"

	"go.yaml.in/yaml/v3"
)

// userinfo is what stands between the scheme and the host of a URL, of which
// plain text may hold several; it may have a / or an @ that should have been
// escaped, and is then taken for as long as it can be.
var userinfo = regexp.MustCompile(`://([^/\s@:]*:)?([^/\s]*)@`)

// aVariable is a whole ${NAME}, which tells no secret.
var aVariable = regexp.MustCompile(`^\$\{[^{}]*\}$`)

// hideUserinfo redacts the passwords of URLs in plain text, and a user without
// one, which is a token to NATS.
func hideUserinfo(text string) string {
	return userinfo.ReplaceAllStringFunc(text, func(found string) string {
		part := userinfo.FindStringSubmatch(found)
		if part[2] == "" || aVariable.MatchString(part[2]) {
			return found
		}
		return "://" + part[1] + redacted + "@"
	})
}

// hideUserinfos does that to all values beneath n.
func hideUserinfos(n *yaml.Node) {
	n.Value = hideUserinfo(n.Value)
	for i, child := range n.Content {
		if n.Kind != yaml.MappingNode || i%2 == 1 {
			hideUserinfos(child)
		}
	}
}
