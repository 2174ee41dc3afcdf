package config

import (
	"regexp"

	"go.yaml.in/yaml/v3"
)

// userinfo matches the text between the scheme and the host of a URL. Plain text
// may hold several URLs. The userinfo may hold a / or an @ that should have been
// escaped: the match is as long as possible.
var userinfo = regexp.MustCompile(`://([^/\s@:]*:)?([^/\s]*)@`)

// aVariable matches a whole ${NAME}, which shows no secret.
var aVariable = regexp.MustCompile(`^\$\{[^{}]*\}$`)

// hideUserinfo redacts the passwords of URLs in plain text, and a user without a
// password, which is a token to NATS.
func hideUserinfo(text string) string {
	return userinfo.ReplaceAllStringFunc(text, func(found string) string {
		part := userinfo.FindStringSubmatch(found)
		if part[2] == "" || aVariable.MatchString(part[2]) {
			return found
		}
		return "://" + part[1] + redacted + "@"
	})
}

// hideUserinfos applies hideUserinfo to all values below n.
func hideUserinfos(n *yaml.Node) {
	n.Value = hideUserinfo(n.Value)
	for i, child := range n.Content {
		if n.Kind != yaml.MappingNode || i%2 == 1 {
			hideUserinfos(child)
		}
	}
}
