package hostrpc

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The label values that are not method names, error codes or fault kinds.
const (
	methodUnknown      = "unknown"
	outcomeOK          = "ok"
	outcomeTooLarge    = "too_large"
	outcomeMediaType   = "unsupported_media_type"
	outcomeHTTPMethod  = "http_method"
	outcomeCrossOrigin = "cross_origin"
	outcomeOverloaded  = "overloaded"
	outcomeBadBody     = "unreadable_body"
	outcomeClientGone  = "client_gone"
	outcomeStopped     = "server_stopped"
)

type metrics struct {
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	faults       prometheus.Gauge
	sampleErrors *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pollcast_hostrpc_requests_total",
			Help: "JSON-RPC calls and notifications, by method and outcome. What never became a call has the method unknown.",
		}, []string{"method", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pollcast_hostrpc_request_duration_seconds",
			Help: "Time from a read request to its answer, delays by faults included.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1,
				2.5, 5, 10},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"method"}),
		faults: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pollcast_hostrpc_faults_active",
			Help: "Faults that are set.",
		}),
		sampleErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pollcast_hostrpc_sample_errors_total",
			Help: "Readings that the host refused, by reading.",
		}, []string{"reading"}),
	}
	if reg == nil {
		return m, nil
	}
	var done []prometheus.Collector
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.faults, m.sampleErrors} {
		if err := reg.Register(c); err != nil {
			for _, d := range done {
				reg.Unregister(d)
			}
			if errors.As(err, new(prometheus.AlreadyRegisteredError)) {
				return nil, errors.New("this registry has the metrics of another hostrpc: use one registry for each")
			}
			return nil, err
		}
		done = append(done, c)
	}
	return m, nil
}

// count counts a request that never became a call.
func (m *metrics) count(outcome string) {
	m.requests.WithLabelValues(methodUnknown, outcome).Inc()
}

func (m *metrics) observe(method, outcome string, took time.Duration) {
	m.requests.WithLabelValues(method, outcome).Inc()
	m.duration.WithLabelValues(method).Observe(took.Seconds())
}
