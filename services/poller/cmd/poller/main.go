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

// settings are the sections of the configuration file that this process knows.
type settings struct {
	NATS    bus.Config    `yaml:"nats"`
	Poller  poller.Config `yaml:"poller"`
	Log     daemon.Log    `yaml:"log"`
	Gateway config.Other  `yaml:"gateway,omitempty"`
	HostRPC config.Other  `yaml:"hostrpc,omitempty"`
}

// Check checks that the sections fit together. It reports what does not.
func (s *settings) Check(report func(path, problem, fix string)) {
	poller.CheckSections(s.Poller, s.NATS, report)
}

// defaults returns the settings of an empty file.
func defaults() settings {
	return settings{NATS: bus.DefaultConfig(), Poller: poller.DefaultConfig(), Log: daemon.DefaultLog()}
}

func main() {
	cfg, reload := defaults(), new(daemon.Reloader)
	daemon.Main(daemon.Service{
		Name: "poller", Config: &cfg, Log: &cfg.Log, Reload: reload,
		Run: func(ctx context.Context, logger *slog.Logger, registry *prometheus.Registry) error {
			p, err := poller.New(ctx, poller.Options{
				Config: cfg.Poller, NATS: cfg.NATS, Logger: logger, Registerer: registry,
			})
			if err != nil {
				return err
			}
			ops, err := admin.New(admin.Options{
				Listen: cfg.Poller.Operations, Ready: p.Ready, Gatherer: registry, Status: p.StatusHandler(),
				Reload: reload, Logger: logger,
			})
			if err != nil {
				p.Close()
				return err
			}
			reload.Use(poller.Reloads(p, cfg, defaults, func(s *settings) *poller.Config { return &s.Poller }))
			logger.Info("poller listens", "operations", ops.Addr())
			return daemon.Together(ctx, p.Run, ops.Run)
		},
	})
}
