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

// settings is what the poller reads of the configuration file.
type settings struct {
	NATS    bus.Config    `yaml:"nats"`
	Poller  poller.Config `yaml:"poller"`
	Log     daemon.Log    `yaml:"log"`
	Gateway config.Other  `yaml:"gateway,omitempty"`
	HostRPC config.Other  `yaml:"hostrpc,omitempty"`
}

// Check holds the sections against each other.
func (s *settings) Check(report func(path, problem, fix string)) {
	s.Poller.CheckHistory(s.NATS.History, func(path, problem, fix string) { report("poller."+path, problem, fix) })
}

func defaults() settings {
	return settings{NATS: bus.DefaultConfig(), Poller: poller.DefaultConfig(), Log: daemon.DefaultLog()}
}

func main() {
	cfg, reload := defaults(), new(daemon.Reloader)
	daemon.Main(daemon.Service{
		Name: "poller", Config: &cfg, Log: &cfg.Log, Reload: reload,
		Run: func(ctx context.Context, logger *slog.Logger, registry *prometheus.Registry) error {
			p, err := poller.New(ctx, poller.Options{Config: cfg.Poller, NATS: cfg.NATS, Logger: logger, Registerer: registry})
			if err != nil {
				return err
			}
			ops, err := admin.New(admin.Options{
				Listen: cfg.Poller.Operations, Ready: p.Ready, Gatherer: registry, Status: p.StatusHandler(), Reload: reload, Logger: logger,
			})
			if err != nil {
				p.Close()
				return err
			}
			reload.Use(func(ctx context.Context, load func(into any) error) (daemon.Changes, error) {
				now := defaults()
				if err := load(&now); err != nil {
					return daemon.Changes{}, p.Refuse(err)
				}
				c, err := p.Reload(ctx, now.Poller)
				return daemon.Changes{
					Added: c.Added, Changed: c.Changed, Removed: c.Removed, Unchanged: c.Unchanged,
					Restart: config.Differ(cfg.fixed(), now.fixed()),
				}, err
			})
			logger.Info("poller listens", "operations", ops.Addr())
			return daemon.Together(ctx, p.Run, ops.Run)
		},
	})
}

// fixed is what a reload does not change.
func (s settings) fixed() settings {
	s.Poller.Sources = nil
	return s
}
