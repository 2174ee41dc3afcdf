package ask

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/source"
)

// A reload keeps the circuit, the quota and the count of probes of an upstream that
// stays, under the new settings, and frees each circuit once.
func TestInherit(t *testing.T) {
	freed := map[string]int{}
	open := func(generation string, changed func(event.Breaker), names ...string) *Upstreams {
		all := new(Upstreams)
		for _, name := range names {
			u := &Upstream{Name: name, Quota: &breaker.Quota{Limit: 100}, Free: func() { freed[generation+name]++ }}
			var err error
			u.Circuit, err = breaker.New(t.Name(), name, breaker.Rule{Failures: 5, OpenFor: time.Minute}, changed)
			if err != nil {
				t.Fatal(err)
			}
			all.List = append(all.List, u)
		}
		return all
	}
	fail := func(u *Upstream) {
		t.Helper()
		permit, err := u.permit(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		c := &contact{up: u, permit: permit, ended: true, failure: &source.Failure{Counts: true, Detail: "HTTP 503"}}
		c.report()
	}
	old := open("old ", func(event.Breaker) { t.Error("the old configuration gets a transition") }, "stays", "goes")
	fail(old.List[0])
	old.Probes.Store(3)

	var transitions []event.Breaker
	changed := func(b event.Breaker) { transitions = append(transitions, b) }
	now := open("now ", changed, "comes", "stays")
	now.Inherit(old, breaker.Rule{Failures: 2, OpenFor: time.Hour}, 2, changed)
	old.Close()
	known := breaker.KnownNames(t.Name())
	open("more ", nil, "stays", "stays").Close() // beside the one in use: the name of one is new
	if n := breaker.KnownNames(t.Name()); n != known+1 {
		t.Error("a circuit in use was freed")
	}
	stays := now.List[1]
	if streak := stays.Circuit.Snapshot().Streak; streak != 1 || now.Probes.Load() != 3 {
		t.Errorf("streak %d, probes %d", streak, now.Probes.Load())
	}
	fail(stays)
	if len(transitions) != 1 || transitions[0].To != event.Open {
		t.Errorf("transitions %+v, want one to open by the new rule", transitions)
	}
	if stays.Quota.Take(time.Now()) {
		t.Error("the quota permits more than its new bound")
	}
	now.Close()
	want := map[string]int{"old stays": 1, "old goes": 1, "now comes": 1, "now stays": 1, "more stays": 2}
	if !maps.Equal(freed, want) {
		t.Errorf("freed %v, want %v", freed, want)
	}
	known = breaker.KnownNames(t.Name())
	open("again ", nil, "stays", "stays", "goes", "comes").Close()
	if n := breaker.KnownNames(t.Name()); n != known {
		t.Errorf("%d circuits were not freed", n-known)
	}
}

// Each field of an upstream is of its configuration or is inherited by Inherit. Who adds
// one decides.
func TestInheritKnowsAllFields(t *testing.T) {
	for typ, fields := range map[reflect.Type]struct{ configured, inherited []string }{
		reflect.TypeFor[Upstream](): {
			configured: []string{"Name", "Calls", "Withheld", "Call", "Free", "Secrets", "moved"},
			inherited:  []string{"Circuit", "Quota"},
		},
		reflect.TypeFor[Upstreams](): {configured: []string{"List"}, inherited: []string{"Probes"}},
	} {
		for _, f := range reflect.VisibleFields(typ) {
			if !slices.Contains(slices.Concat(fields.configured, fields.inherited), f.Name) {
				t.Errorf("%v.%s: does a reload keep it? See Upstreams.Inherit", typ, f.Name)
			}
		}
	}
}
