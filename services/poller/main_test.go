package poller

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// hystrix never ends the two goroutines of a circuit.
func TestMain(m *testing.M) {
	if what := os.Getenv(scaleChild); what != "" {
		if err := runScaleChild(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/afex/hystrix-go/hystrix.(*metricExchange).Monitor"),
		goleak.IgnoreAnyFunction("github.com/afex/hystrix-go/hystrix.(*poolMetrics).Monitor"),
	)
}
