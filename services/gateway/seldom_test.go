package gateway

import (
	"testing"
	"time"
)

func TestSeldom(t *testing.T) {
	var s seldom
	at := time.Now()
	for i, want := range []int{1, 0, 0} {
		if n := s.may(at, sayEvery); n != want {
			t.Errorf("time %d: have %d, want %d", i+1, n, want)
		}
	}
	if n := s.may(at.Add(sayEvery), sayEvery); n != 3 {
		t.Errorf("later: have %d, want 3, with the two kept back", n)
	}
}
