package up

import (
	"context"
	"log/slog"

	"github.com/pollcast/pollcast/pkg/config"
	"github.com/pollcast/pollcast/pkg/daemon"
	"github.com/pollcast/pollcast/services/poller"
)

// heed lets hangups and requests change the poller's sources, until the group
// stops.
func (g *group) heed(o Options, reload *daemon.Reloader, p *poller.Poller, log *slog.Logger) {
	if o.Load == nil {
		return
	}
	reload.Bind(func(into any) error { return o.Load(into.(*Config)) }, log)
	reload.Use(func(ctx context.Context, load func(into any) error) (daemon.Changes, error) {
		now := DefaultConfig()
		if err := load(&now); err != nil {
			return daemon.Changes{}, p.Refuse(err)
		}
		c, err := p.Reload(ctx, now.Poller)
		return daemon.Changes{
			Added: c.Added, Changed: c.Changed, Removed: c.Removed, Unchanged: c.Unchanged,
			Restart: config.Differ(fixed(o.Config), fixed(now)),
		}, err
	})
	g.start(func(ctx context.Context) error {
		daemon.Heed(ctx.Done(), o.Hangups, reload, log)
		return nil
	})
}

// fixed is what a reload does not change.
func fixed(c Config) Config {
	c.Poller.Sources = nil
	return c
}
