package gateway

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/admin"
	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// slowest is how many connections a status names.
const slowest = 20

// Status is what a gateway is doing. It holds no values and no secrets, but the
// addresses of clients.
type Status struct {
	Gateway       string    `json:"gateway"`
	Started       time.Time `json:"started"`
	Ready         bool      `json:"ready"`
	Problem       string    `json:"problem,omitempty"` // why it is not ready
	NATS          string    `json:"nats"`              // state of the connection
	Server        string    `json:"natsServer,omitempty"`
	Epoch         string    `json:"epoch"`
	Seq           uint64    `json:"seq"`
	Polls         int       `json:"polls"`
	PollsStale    int       `json:"pollsStale"`
	Topics        int       `json:"topics"`       // that have a value
	TopicsWaited  int       `json:"topicsWaited"` // that have none, and are waited for
	Connections   int       `json:"connections"`
	Limit         int       `json:"maxConnections"`
	Sockets       int       `json:"sockets"` // without an answer yet, or idle
	Waiting       int64     `json:"waiting"` // for their turn to connect
	Feeds         int       `json:"feeds"`
	Subscriptions int       `json:"subscriptions"` // patterns, of all connections together
	Blocked       int       `json:"blocked"`       // connections whose socket is full
	Memory        Memory    `json:"memory"`
	// Refused and Closed count since the start, by why.
	Refused map[string]uint64 `json:"refused"`
	Closed  map[string]uint64 `json:"closed"`
	// Slowest are the connections that cost most, of those that cost anything.
	Slowest []ConnectionStatus `json:"slowest"`
}

// Memory is the budget and what takes it, in bytes.
type Memory struct {
	Used    int64 `json:"used"`
	Budget  int64 `json:"budget"`
	Evicted int64 `json:"evicted"` // connections closed for it since the start
	By      usage `json:"by"`
}

// ConnectionStatus is one connection and what it costs.
type ConnectionStatus struct {
	Connection    string    `json:"connection"`
	Address       string    `json:"address"`
	Since         time.Time `json:"since"`
	Protocol      string    `json:"protocol"`
	Delivery      string    `json:"delivery"`
	Topics        int       `json:"topics"` // patterns that it holds
	Blocked       bool      `json:"blocked"`
	Closing       bool      `json:"closing,omitempty"`
	BytesBehind   uint64    `json:"bytesBehind"`
	SecondsBehind float64   `json:"secondsBehind"`
	PrivateBytes  int64     `json:"privateBytes"`
	OtherBytes    int64     `json:"otherBytes"` // its subscriptions, and the message that it is sending
}

// Status of the gateway now. Its cost is a look at every connection.
func (g *Gateway) Status() Status {
	st := g.server.status(time.Now())
	st.Started = g.started
	err := g.Ready()
	if st.Ready = err == nil; err != nil {
		st.Problem = err.Error()
	}
	st.NATS = "not connected yet"
	if nc := g.nc.Load(); nc != nil {
		st.NATS, st.Server = nc.NATS().Status().String(), nc.NATS().ConnectedUrlRedacted()
	}
	return st
}

func (s *server) status(now time.Time) Status {
	st := Status{
		Gateway: s.name, Limit: s.cfg.MaxConnections, Sockets: s.sockets.count(), Waiting: s.gate.waiting.Load(),
		Refused: s.metrics.countsOf(s.metrics.refused), Closed: s.metrics.countsOf(s.metrics.closed),
		Memory:  Memory{Used: s.budget.Used(), Budget: s.budget.Limit(), Evicted: s.metrics.evictions.Load()},
		Slowest: []ConnectionStatus{},
	}
	if u := s.evictor.last.Load(); u != nil {
		st.Memory.By = *u
	}
	conns := s.conns.all()
	type item struct {
		c    *session
		cost int64
	}
	var dear []item // the dearest so far, the dearest first
	for _, c := range conns {
		st.Connections++
		if f := c.Feed(); f != nil {
			st.Subscriptions += len(f.Patterns)
		}
		blocked := c.Blocked()
		if blocked {
			st.Blocked++
		}
		cost := c.Cost()
		if cost == 0 || !blocked && cost < cheap || len(dear) == slowest && cost <= dear[slowest-1].cost {
			continue
		}
		at, _ := slices.BinarySearchFunc(dear, cost, func(i item, cost int64) int { return cmp.Compare(cost, i.cost) })
		dear = slices.Insert(dear, at, item{c, cost})
		dear = dear[:min(len(dear), slowest)]
	}
	for _, i := range dear {
		st.Slowest = append(st.Slowest, i.c.status(now))
	}
	var n hub.Numbers
	s.hub.With(func(v *hub.View) { n = v.Numbers() })
	st.Epoch, st.Seq, st.Polls, st.PollsStale, st.Feeds = n.Epoch, n.Seq, n.Polls, n.PollsStale, n.Feeds
	st.Topics, st.TopicsWaited = n.Topics, n.TopicsWaited
	return st
}

func (c *session) status(now time.Time) ConnectionStatus {
	st := ConnectionStatus{
		Connection: c.Name, Address: c.Socket.RemoteAddr().String(), Since: c.Begun.UTC(),
		Protocol: wire.ProtocolJSON, Delivery: string(wire.DeliverAll),
		Blocked: c.Blocked(), Closing: c.ClosingSince() != 0,
		BytesBehind: c.Lag(), PrivateBytes: c.Private(), OtherBytes: c.Extra(),
	}
	switch c.Format.Plain() {
	case hub.Proto:
		st.Protocol = wire.ProtocolProto
	case hub.SSE:
		st.Protocol = "sse"
	}
	if c.Latest() {
		st.Delivery = string(wire.DeliverLatest)
	}
	if f := c.Feed(); f != nil {
		st.Topics = len(f.Patterns)
	}
	if since := c.BehindSince(); since != 0 {
		st.SecondsBehind = now.Sub(time.Unix(0, since)).Round(time.Millisecond).Seconds()
	}
	return st
}

// countsOf reads the counters of one metric, by its only label.
func (m *metrics) countsOf(v *prometheus.CounterVec) map[string]uint64 {
	ch := make(chan prometheus.Metric, 64) // more than any metric here has labels
	v.Collect(ch)
	close(ch)
	out := map[string]uint64{}
	for one := range ch {
		var d dto.Metric
		if one.Write(&d) == nil {
			out[d.GetLabel()[0].GetValue()] = uint64(d.GetCounter().GetValue())
		}
	}
	return out
}

// serveStatus answers GET /status on the operations port.
func (g *Gateway) serveStatus(w http.ResponseWriter, r *http.Request) {
	admin.WriteStatus(w, r, g.Status(), statusPage)
}

var statusPage = admin.NewPage("gateway", `{{define "title"}}{{.Gateway}}: Pollcast gateway{{end}}
<h1>Gateway {{.Gateway}} {{if .Ready}}<span class="good">ready</span>{{else}}<span class="bad">not ready: {{.Problem}}</span>{{end}}</h1>
<p class="dim">started {{ago .Started}}</p>
<table>
<tr><th>NATS<td>{{.NATS}} {{.Server}}
<tr><th>stream<td>epoch {{.Epoch}}, seq {{.Seq}}
<tr><th>polls<td>{{.Polls}}, of which <span{{if .PollsStale}} class="bad"{{end}}>{{.PollsStale}} stale</span>
<tr><th>topics<td>{{.Topics}}, and {{.TopicsWaited}} that are waited for
<tr><th>connections<td>{{.Connections}} of {{.Limit}}, {{.Blocked}} with a full socket, {{.Waiting}} waiting to come in, {{.Sockets}} other sockets
<tr><th>subscriptions<td>{{.Subscriptions}} in {{.Feeds}} feeds
<tr><th>memory<td><meter min="0" max="{{.Memory.Budget}}" high="{{.Memory.Budget}}" value="{{.Memory.Used}}"></meter> {{size .Memory.Used}} of {{size .Memory.Budget}}; {{.Memory.Evicted}} connections closed for it
<tr><th>of which<td>{{with .Memory.By}}process {{size .Base}}, connections {{size .Connections}}, sockets {{size .Sockets}}, private {{size .Private}}, feeds {{size .Feeds}}, big frames {{size .Frames}}, values {{size .Values}}, history {{size .History}}{{end}}
<tr><th>refused<td>{{range $why, $n := .Refused}}{{$why}} {{$n}} {{else}}<span class="dim">nobody</span>{{end}}
<tr><th>ended<td>{{range $why, $n := .Closed}}{{$why}} {{$n}} {{else}}<span class="dim">none</span>{{end}}
</table>
<h2>The slowest clients</h2>
<table>
<tr><th>connection<th>address<th>since<th>protocol<th>delivery<th class="n">topics<th class="n">behind<th class="n">for<th class="n">private<th class="n">other
{{range .Slowest}}<tr><td>{{.Connection}}{{if .Closing}} <span class="bad">closing</span>{{end}}<td>{{.Address}}<td>{{ago .Since}}<td>{{.Protocol}}<td>{{.Delivery}}<td class="n">{{.Topics}}<td class="n">{{size .BytesBehind}}<td class="n">{{.SecondsBehind}} s<td class="n">{{size .PrivateBytes}}<td class="n">{{size .OtherBytes}}
{{else}}<tr><td colspan="10" class="dim">none: every socket takes what there is{{end}}
</table>`)
