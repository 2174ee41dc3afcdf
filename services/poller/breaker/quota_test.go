package breaker

import (
	"slices"
	"testing"
	"time"
)

// TestQuotaLearns checks that a quota that learns what another poller spent lets as many
// calls through as if it had spent them itself, at most a second later.
func TestQuotaLearns(t *testing.T) {
	t.Parallel()
	now := time.Now()
	first := &Quota{Limit: 60}
	for i := range 30 { // one a second, then ten at once
		first.Take(now.Add(time.Duration(i) * time.Second))
	}
	at := now.Add(29*time.Second + 500*time.Millisecond)
	for range 10 {
		first.Take(at)
	}
	spent := first.Spent(at)
	if want := append([]int{11}, slices.Repeat([]int{1}, 29)...); !slices.Equal(spent, want) {
		t.Fatalf("spent %v, want %v", spent, want)
	}
	for _, next := range []*Quota{{Limit: 60}, first} {
		later := at.Add(2200 * time.Millisecond)
		next.Learn(later, 2200*time.Millisecond, spent)
		var got []int
		for i := range 62 {
			n := 0
			for next.Take(later.Add(time.Duration(i) * time.Second)) {
				n++
			}
			got = append(got, n)
		}
		sum, start := 0, got[0]
		for _, n := range got[:28] {
			sum += n
		}
		if start != 20 || sum > 22 {
			t.Errorf("lets %v through", got)
		}
	}
	if have := (&Quota{}).Spent(now); have != nil {
		t.Errorf("spent without a bound: %v", have)
	}
}
