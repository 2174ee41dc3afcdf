// Command hostrpc runs the JSON-RPC 2.0 server that reports on this host.
package main

import (
	"context"
	"log/slog"

	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/daemon"
	"github.com/pollcast/pollcast/services/hostrpc"
	"github.com/prometheus/client_golang/prometheus"
)

func main() {
	cfg := struct {
		HostRPC hostrpc.Config `yaml:"hostrpc"`
		Log     daemon.Log     `yaml:"log"`
		NATS    config.Other   `yaml:"nats,omitempty"`
		Poller  config.Other   `yaml:"poller,omitempty"`
		Gateway config.Other   `yaml:"gateway,omitempty"`
	}{HostRPC: hostrpc.DefaultConfig(), Log: daemon.DefaultLog()}

	daemon.Main(daemon.Service{
		Name: "hostrpc", Config: &cfg, Log: &cfg.Log,
		Run: func(ctx context.Context, logger *slog.Logger, registry *prometheus.Registry) error {
			server, err := hostrpc.New(ctx, hostrpc.Options{
				Config: cfg.HostRPC, Logger: logger, Registerer: registry, Gatherer: registry,
			})
			if err != nil {
				return err
			}
			return server.Run(ctx)
		},
	})
}
