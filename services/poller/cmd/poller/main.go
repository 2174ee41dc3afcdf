// Command poller runs one poller.
package main

import (
	"context"
	"log/slog"

	"github.com/pollcast/pollcast/pkg/admin"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/daemon"
	"github.com/pollcast/pollcast/services/poller"
	"github.com/prometheus/client_golang/prometheus"
)

func main() {
	cfg := struct {
		NATS    bus.Config    `yaml:"nats"`
		Poller  poller.Config `yaml:"poller"`
		Log     daemon.Log    `yaml:"log"`
		Gateway config.Other  `yaml:"gateway,omitempty"`
		HostRPC config.Other  `yaml:"hostrpc,omitempty"`
	}{NATS: bus.DefaultConfig(), Poller: poller.DefaultConfig(), Log: daemon.DefaultLog()}

	daemon.Main(daemon.Service{
		Name: "poller", Config: &cfg, Log: &cfg.Log,
		Run: func(ctx context.Context, logger *slog.Logger, registry *prometheus.Registry) error {
			p, err := poller.New(ctx, poller.Options{Config: cfg.Poller, NATS: cfg.NATS, Logger: logger, Registerer: registry})
			if err != nil {
				return err
			}
			ops, err := admin.New(admin.Options{
				Listen: cfg.Poller.Operations, Ready: p.Ready, Gatherer: registry, Status: p.StatusHandler(), Logger: logger,
			})
			if err != nil {
				p.Close()
				return err
			}
			logger.Info("poller listens", "operations", ops.Addr())
			return daemon.Together(ctx, p.Run, ops.Run)
		},
	})
}
