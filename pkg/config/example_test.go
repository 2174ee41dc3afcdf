package config_test

import (
	"fmt"
	"time"

	"github.com/pollcast/pollcast/pkg/config"
)

type gateway struct {
	Listen string        `yaml:"listen" doc:"Address to serve on."`
	Ping   time.Duration `yaml:"ping" doc:"Time between two pings."`
	Token  config.Secret `yaml:"token"`
}

func (g gateway) Check(report func(path, problem, fix string)) {
	if g.Ping < time.Second {
		report("ping", fmt.Sprintf("%s is too short", g.Ping), "use at least 1s")
	}
}

type root struct {
	Gateway gateway      `yaml:"gateway"`
	Poller  config.Other `yaml:"poller,omitempty"` // another service's section
}

func Example() {
	cfg := root{Gateway: gateway{Listen: ":12080", Ping: 30 * time.Second}}
	err := config.Load(&cfg, config.Source{
		File: "pollcast.yaml",
		Data: []byte("gateway:\n  lisen: :8080\n  ping: 20\n  token: ${TOKEN}\npoller: {}\n"),
		Env:  []string{"POLLCAST_GATEWAY_PING=10ms"},
	})
	fmt.Println(err)
	// Output:
	// pollcast.yaml:2:3: gateway: unknown key "lisen"; did you mean "listen"?
	// pollcast.yaml:4:10: gateway.token: the environment variable TOKEN is not set; set it, or write ${TOKEN:-default}
	// POLLCAST_GATEWAY_PING: gateway.ping: 10ms is too short; use at least 1s
}

func ExamplePrint() {
	cfg := root{Gateway: gateway{Listen: ":12080", Ping: 30 * time.Second, Token: config.NewSecret("hunter2")}}
	out, _ := config.Print(&cfg)
	fmt.Print(string(out))
	// Output:
	// gateway:
	//   listen: :12080
	//   ping: 30s
	//   token: '[redacted]'
}
