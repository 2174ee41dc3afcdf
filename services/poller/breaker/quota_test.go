package breaker

import (
	"slices"
	"testing"
	"time"
)

// A quota that learns what another owner has spent, second by second, lets as
// much through as if it had spent it itself, a second later at most.
func TestQuotaLearns(t *testing.T) {
	now := time.Now()
	first := &Quota{Limit: 60}
	for i := range 30 { // one a second, then ten at once
		first.Take(now.Add(time.Duration(i) * time.Second))
	}
	at := now.Add(29*time.Second + 500*time.Millisecond)
	for range 10 {
		first.Take(at)
	}
	told := first.Spent(at)
	if want := append([]int{11}, slices.Repeat([]int{1}, 29)...); !slices.Equal(told, want) {
		t.Fatalf("spent %v, want %v", told, want)
	}
	for _, next := range []*Quota{{Limit: 60}, first} {
		later := at.Add(2200 * time.Millisecond)
		next.Learn(later, 2200*time.Millisecond, told)
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
