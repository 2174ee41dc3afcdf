// Command gateway runs one gateway.
package main

import (
	"context"
	"log/slog"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/daemon"
	"github.com/pollcast/pollcast/services/gateway"
	"github.com/prometheus/client_golang/prometheus"
)

func main() {
	cfg := struct {
		NATS    bus.Config     `yaml:"nats"`
		Gateway gateway.Config `yaml:"gateway"`
		Log     daemon.Log     `yaml:"log"`
		Poller  config.Other   `yaml:"poller,omitempty"`
		HostRPC config.Other   `yaml:"hostrpc,omitempty"`
	}{NATS: bus.DefaultConfig(), Gateway: gateway.DefaultConfig(), Log: daemon.DefaultLog()}

	daemon.Main(daemon.Service{
		Name: "gateway", Config: &cfg, Log: &cfg.Log,
		Run: func(ctx context.Context, logger *slog.Logger, registry *prometheus.Registry) error {
			gateway.LimitMemory(cfg.Gateway)
			g, err := gateway.New(gateway.Options{Config: cfg.Gateway, NATS: cfg.NATS, Logger: logger, Registry: registry})
			if err != nil {
				return err
			}
			return g.Run(ctx)
		},
	})
}
