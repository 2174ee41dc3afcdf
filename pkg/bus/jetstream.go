package bus

import (
	"regexp"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// JetStream is where JetStream answers, if not in the account's own domain under
// $JS.API.
type JetStream struct {
	Domain    string `yaml:"domain" doc:"JetStream domain of the stream, as seen from a leaf node"`
	APIPrefix string `yaml:"apiPrefix" doc:"subject prefix of the JetStream API, as an account imports it, instead of $JS.API"`
}

// defaultAPI begins the subjects of the JetStream API.
const defaultAPI = "$JS.API."

// api begins the subjects of the JetStream API, with the trailing dot.
func (j JetStream) api() string {
	switch {
	case j.Domain != "":
		return "$JS." + j.Domain + ".API."
	case j.APIPrefix != "":
		return j.APIPrefix + "."
	}
	return defaultAPI
}

// of returns JetStream on a connection.
func (j JetStream) of(nc *nats.Conn) (jetstream.JetStream, error) {
	switch {
	case j.Domain != "":
		return jetstream.NewWithDomain(nc, j.Domain)
	case j.APIPrefix != "":
		return jetstream.NewWithAPIPrefix(nc, j.APIPrefix)
	}
	return jetstream.New(nc)
}

var (
	domainRE = regexp.MustCompile(`^[^\s.*>]+$`)
	prefixOf = regexp.MustCompile(`^[^\s.*>]+(\.[^\s.*>]+)*$`)
)

func (j JetStream) check(report func(path, problem, fix string)) {
	if j.Domain != "" && j.APIPrefix != "" {
		report("jetstream", "both a domain and an API prefix are set", "keep one of them")
	}
	if j.Domain != "" && !domainRE.MatchString(j.Domain) {
		report("jetstream.domain", "it is no name of a domain", "write one word, such as hub")
	}
	if j.APIPrefix != "" && !prefixOf.MatchString(j.APIPrefix) {
		fix := "write a subject without wildcards, such as js.hub"
		if strings.HasSuffix(j.APIPrefix, ".") {
			fix = "write it without the dot at its end"
		}
		report("jetstream.apiPrefix", "it is no subject", fix)
	}
}
