package breaker

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain finds leaked goroutines. hystrix never ends the two goroutines of a circuit.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/afex/hystrix-go/hystrix.(*metricExchange).Monitor"),
		goleak.IgnoreAnyFunction("github.com/afex/hystrix-go/hystrix.(*poolMetrics).Monitor"),
	)
}
