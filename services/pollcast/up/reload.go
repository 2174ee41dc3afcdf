package up

import (
	"context"
	"log/slog"

	"github.com/pollcast/pollcast/pkg/daemon"
	"github.com/pollcast/pollcast/services/poller"
)

// heed reloads the poller's sources at every hangup and request, until the group stops.
func (g *group) heed(o Options, reload *daemon.Reloader, p *poller.Poller, log *slog.Logger) {
	if o.Load == nil {
		return
	}
	reload.Bind(func(into any) error { return o.Load(into.(*Config)) }, log)
	reload.Use(poller.Reloads(p, o.Config, DefaultConfig, func(c *Config) *poller.Config { return &c.Poller }))
	g.start(func(ctx context.Context) error {
		daemon.Heed(ctx.Done(), o.Hangups, reload, log)
		return nil
	})
}
