package runner

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/history"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/poll"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/drivers"
	"github.com/pollcast/pollcast/services/poller/walk"
	"github.com/prometheus/client_golang/prometheus"
)

// New makes the runner of a source, of a configuration that was checked. It writes to
// sourceLog, its polls write to log, each with its name. Close frees it.
func New(name string, c config.Source, log, sourceLog *slog.Logger, m *Metrics) (*Runner, error) {
	c = c.WithDefaults()
	r := &Runner{
		Name: name, config: c, files: c.FilesDigest(), Upstreams: new(ask.Upstreams),
		log: sourceLog, metrics: m, ComplainTo: func(error) {},
	}
	if err := r.openUpstreams(); err != nil {
		r.Close()
		return nil, err
	}
	for i, pollName := range slices.Sorted(maps.Keys(c.Polls)) {
		p, err := r.newPoll(i, name+"."+pollName, c.Polls[pollName].WithDefaults(c), log)
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("poll %s.%s: %w", name, pollName, err)
		}
		r.Polls = append(r.Polls, p)
	}
	return r, nil
}

// openUpstreams opens the upstreams of the configuration.
func (r *Runner) openUpstreams() error {
	c := r.config
	certificates, err := source.NewCertificates(c.TLS.Files(), r.noteCertificates)
	if err != nil {
		return fmt.Errorf("%w: sources.%s: %w", config.ErrConfig, r.Name, err)
	}
	slowest := time.Duration(0)
	for _, p := range c.Polls {
		slowest = max(slowest, p.WithDefaults(c).Interval)
	}
	header, _ := c.Credentials()
	names, secrets := map[string]int{}, config.SecretsOf(c)
	for _, address := range c.Upstreams {
		u := &ask.Upstream{
			Name: config.DisplayName(address, names), Secrets: secrets,
			Quota: &breaker.Quota{Limit: c.MaxCallsPerMinute}, Calls: map[ask.CallKind]prometheus.Counter{},
		}
		u.Call, u.Free, err = drivers.All[c.Driver].Open(source.Endpoint{
			URL: address, Header: maps.Clone(header), TLS: certificates, MaxAnswer: int64(c.MaxAnswer), Secrets: secrets,
			Idle: source.IdleTime(slowest), Batch: c.Batch, Descriptors: c.Descriptors,
			Notice: func(message string, facts ...any) { r.log.Info(message, append(facts, "upstream", u.Name)...) },
		})
		if err != nil {
			return fmt.Errorf("open upstream %s of source %s: %w", u.Name, r.Name, err)
		}
		if u.Circuit, err = breaker.New(r.Name, u.Name, breaker.Rule(c.Breaker), r.announce); err != nil {
			u.Free()
			return fmt.Errorf("make circuit of source %s: %w", r.Name, err)
		}
		u.Withheld = r.metrics.withheld.WithLabelValues(r.Name, u.Name)
		for _, k := range ask.CallKinds {
			u.Calls[k] = r.metrics.calls.WithLabelValues(r.Name, u.Name, string(k))
		}
		for _, to := range []event.State{event.Closed, event.HalfOpen, event.Open} {
			r.metrics.transitions.WithLabelValues(r.Name, u.Name, string(to))
		}
		r.Upstreams.List = append(r.Upstreams.List, u)
	}
	return nil
}

func (r *Runner) noteCertificates(text string, err error) {
	if err != nil {
		r.log.Warn(text, "error", err)
		return
	}
	r.log.Info(text)
}

// newPoll makes a poll of the source, the index-th by name.
func (r *Runner) newPoll(index int, topic string, c config.Poll, log *slog.Logger) (*poll.Poll, error) {
	lines := &history.Lines{Most: history.PollLines}
	a := &ask.Asker{
		Topic: topic, Index: index, Config: c, Source: r.config, Upstreams: r.Upstreams,
		Log:        history.Remember(log.With("poll", topic), lines),
		MaxPayload: r.maxPayload, Stood: func() time.Duration { return r.Pulse.Paused() },
	}
	var sequence *walk.Sequence
	var err error
	var bad []jq.KeyError
	if c.Follow != nil {
		if sequence, a.Question, err = walk.NewSequence(c); err != nil {
			return nil, err
		}
	} else if a.Question, bad = c.Question(); len(bad) > 0 {
		return nil, fmt.Errorf("%s: %w", bad[0].Key, bad[0].Err)
	}
	if a.Shape, bad = c.Shape(); len(bad) > 0 {
		return nil, fmt.Errorf("%s: %w", bad[0].Key, bad[0].Err)
	}
	for _, path := range slices.Sorted(maps.Keys(c.Deadband)) {
		b, err := jq.NewBand(path, c.Deadband[path])
		if err != nil {
			return nil, fmt.Errorf("deadband: %w", err)
		}
		a.Bands = append(a.Bands, b)
	}
	for _, text := range c.Ignore {
		path, err := jq.ParsePath(text)
		if err != nil {
			return nil, fmt.Errorf("ignore: %w", err)
		}
		a.Ignore = append(a.Ignore, path)
	}
	schedule := config.NewSchedule(topic, c.Interval)
	if r.config.Batch { // the polls share their slots, so that their calls make one request
		schedule = config.NewSchedule(r.Name, c.Interval)
		schedule.Exact = true
	}
	return poll.New(poll.Options{
		Asker: a, Host: r, Schedule: schedule, Sequence: sequence, Always: c.Emit == config.EmitAlways,
		Counts: r.metrics.polls.Of(topic), Lines: lines,
	}), nil
}
