package bus

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/config"
)

// Config is how a service reaches NATS. Zero fields mean the default.
type Config struct {
	URL       string        `yaml:"url" doc:"NATS servers, comma-separated"`
	Prefix    string        `yaml:"prefix" doc:"first token of every subject, and the stream's name in upper case"`
	User      string        `yaml:"user" doc:"user name, if the servers ask for one"`
	Password  config.Secret `yaml:"password" doc:"password of the user; write ${NAME} to take it from the environment"`
	Replicas  int           `yaml:"replicas" doc:"copies of the stream and the lease bucket: 1, or 3 on a cluster"`
	History   int           `yaml:"history" doc:"messages kept per subject, for clients that resume"`
	MaxBytes  config.Size   `yaml:"maxBytes" doc:"size limit of the stream, such as 1GiB; the oldest messages go first"`
	Creds     string        `yaml:"credentials" doc:"path of a file with a user's JWT and seed, as nsc makes it, or with the seed of an nkey alone"`
	TLS       TLS           `yaml:"tls" doc:"certificates, for servers that speak TLS"`
	JetStream JetStream     `yaml:"jetstream" doc:"where JetStream answers, if it is another domain or account"`
	Manage    bool          `yaml:"manage" doc:"pollers create the stream and the lease bucket, and change them to the configuration; false: somebody else does, and they are only compared"`
	Placement Placement     `yaml:"placement" doc:"where pollers place the stream and the lease bucket"`
	LeaseTime time.Duration `yaml:"leaseTime" doc:"a source moves to another poller when its owner was silent for so long"`
}

// Defaults of Config.
const (
	DefaultURL       = "nats://127.0.0.1:4222"
	DefaultHistory   = 64
	DefaultMaxBytes  = 1 << 30
	DefaultLeaseTime = 10 * time.Second
)

// Names returns the names of the configured installation.
func (c *Config) Names() (Names, error) {
	n, err := NewNames(c.Prefix)
	n.api = c.JetStream.api()
	return n, err
}

// DefaultConfig returns the configuration of a NATS server on this machine.
func DefaultConfig() Config {
	return Config{
		URL: DefaultURL, Prefix: DefaultPrefix, Replicas: 1, Manage: true,
		History: DefaultHistory, MaxBytes: DefaultMaxBytes, LeaseTime: DefaultLeaseTime,
	}
}

// Check reports every mistake in the configuration.
func (c *Config) Check(report func(path, problem, fix string)) {
	for i, u := range strings.Split(c.URL, ",") {
		if isAddress(strings.TrimSpace(u)) {
			continue
		}
		const fix = "write nats://host:4222 (or tls://, ws://, wss://)"
		if strings.Contains(c.URL, "@") { // and a password may hold anything, also a comma
			report("url", fmt.Sprintf("address %d is no NATS address", i+1),
				fix+", and name and password as nats.user and nats.password")
		} else {
			report("url", fmt.Sprintf("%q is no NATS address", u), fix)
		}
	}
	if _, err := NewNames(c.Prefix); err != nil {
		report("prefix", err.Error(), "use one word, such as pollcast")
	}
	switch c.Replicas {
	case 1, 3, 5:
	default:
		report("replicas", fmt.Sprintf("%d copies make no useful quorum", c.Replicas), "use 1, 3 or 5")
	}
	if c.History < 1 || c.History > 100_000 {
		report("history", fmt.Sprintf("%d is out of range", c.History), "use 1 to 100000")
	}
	if c.MaxBytes < 1<<20 {
		report("maxBytes", fmt.Sprintf("%v hold next to nothing", c.MaxBytes), "use at least 1MiB")
	}
	if c.LeaseTime < time.Second || c.LeaseTime > 10*time.Minute {
		report("leaseTime", fmt.Sprintf("%v is out of range", c.LeaseTime), "use 1s to 10m")
	}
	if !c.Manage && c.Placement.placement() != nil {
		report("placement", "pollers do not place a stream that they do not manage", "remove it, or write manage: true")
	}
	c.checkLogin(report)
	c.TLS.check(c.URL, report)
	c.JetStream.check(report)
}

// isAddress reports whether a URL can be connected to.
func isAddress(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Hostname() != "" && (u.Port() == "" || config.IsPort(u.Port())) &&
		slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme)
}

// redact hides the user part of every URL in a comma-separated list.
func redact(urls string) string {
	parts := strings.Split(urls, ",")
	for i, u := range parts {
		if at := strings.LastIndexByte(u, '@'); at >= 0 {
			scheme, _, ok := strings.Cut(u, "://")
			if !ok {
				scheme = "nats"
			}
			parts[i] = scheme + "://[redacted]" + u[at:]
		}
	}
	return strings.Join(parts, ",")
}
