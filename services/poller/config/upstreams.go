package config

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"time"
)

// checkAttempts checks how the calls of a tick share its time. It leaves out polls whose
// interval or timeout is wrong itself.
func (s Source) checkAttempts(report func(path, problem, fix string)) {
	if s.Retries < 0 || s.Retries > MaxRetries {
		report("retries", fmt.Sprintf("%d is out of range", s.Retries), fmt.Sprintf("use 0 to %d", MaxRetries))
		s.Retries = 0
	}
	var tightest, slackest Pace
	var name string
	for _, n := range slices.Sorted(maps.Keys(s.Polls)) {
		p := s.Polls[n].WithDefaults(s)
		if p.Interval < MinInterval || p.Timeout < MinTimeout {
			continue // has a mistake of its own
		}
		c := NewPace(s, p)
		if name == "" || c.budget < tightest.budget {
			name, tightest = n, c
		}
		if c.budget > slackest.budget {
			slackest = c
		}
	}
	if name != "" && s.AttemptTimeout >= 0 && !tightest.fits() {
		most, need := tightest.nearest()
		report("retries", fmt.Sprintf("%d calls and the pauses between them do not fit into the timeout %v of poll %q", tightest.Calls(), tightest.budget, name),
			fmt.Sprintf("use %d, or a timeout of %v or more, which takes an interval of %v or more", most, need, ceil(need/8*10)))
	}
	switch d := s.AttemptTimeout; {
	case d < 0 || d > 0 && d < MinTimeout:
		report("attemptTimeout", fmt.Sprintf("%v is too short for any call", d), fmt.Sprintf("use %v or more", MinTimeout))
	case name != "" && d > slackest.budget:
		report("attemptTimeout", fmt.Sprintf("%v is longer than every poll's timeout", d), fmt.Sprintf("use %v or less", slackest.budget))
	}
	switch {
	case s.Hedge < 0:
		report("hedge", fmt.Sprintf("%v is no delay", s.Hedge), "use 0s for none, or a usual answer's time, such as 200ms")
	case s.Hedge == 0:
	case len(s.Upstreams) < 2:
		report("hedge", "there is no second upstream to ask", "add one, or remove it")
	case name != "" && s.Hedge >= slackest.share():
		share := slackest.share()
		report("hedge", fmt.Sprintf("%v is not less than the %v that the first call has, so that it would never come to it", s.Hedge, share.Truncate(time.Millisecond)),
			fmt.Sprintf("use less than %v", share.Truncate(time.Millisecond)))
	}
	s.checkQuota(report)
}

// nearest returns the most retries that fit, and the shortest timeout with which all do.
func (c Pace) nearest() (retries int, budget time.Duration) {
	fewer := c
	for fewer.Retries > 0 && !fewer.fits() {
		fewer.Retries--
	}
	const step = 10 * time.Millisecond
	longer := c
	n := sort.Search(int(MaxInterval/step), func(i int) bool {
		longer.budget = time.Duration(i) * step
		return longer.fits()
	})
	return fewer.Retries, time.Duration(n) * step
}

// checkQuota checks that the regular polls fit into maxCallsPerMinute.
func (s Source) checkQuota(report func(path, problem, fix string)) {
	most := s.MaxCallsPerMinute
	if most < 0 {
		report("maxCallsPerMinute", fmt.Sprintf("%d is no number of calls", most), "use 0 for any number")
	}
	if most <= 0 || s.callsInAnyMinute(1) <= most {
		return
	}
	fix := fmt.Sprintf("use %d or more", s.callsInAnyMinute(1))
	problem := fmt.Sprintf("%d are fewer than the polls may need in a minute, which is %d", most, s.callsInAnyMinute(1))
	if s.Retries > 0 {
		problem += fmt.Sprintf(" with %d retries each", s.Retries)
		without := s
		if without.Retries = 0; without.callsInAnyMinute(1) <= most {
			for without.Retries = s.Retries; without.callsInAnyMinute(1) > most; {
				without.Retries--
			}
			fix += fmt.Sprintf(", or retries: %d", without.Retries)
		}
	}
	if n := s.fewerPositions(most); n > 0 {
		fix += fmt.Sprintf(", or follow.maxPerTick of %d or less", n)
	}
	least := 0
	for _, p := range s.Polls {
		least += p.callsPerTick() + s.Retries
	}
	if least > most {
		report("maxCallsPerMinute", problem, fix+fmt.Sprintf("; %d polls cannot do with less than %d, whatever their intervals", len(s.Polls), least))
		return
	}
	// In tenths, so that the number is short.
	tenths := 10 + sort.Search(10*int(time.Minute/MinInterval), func(i int) bool {
		return s.callsInAnyMinute(float64(10+i)/10) <= most
	})
	if len(s.Polls) == 1 {
		for _, p := range s.Polls {
			p = p.WithDefaults(s)
			fix += fmt.Sprintf(", or an interval of %v or more", s.slowest(p, most))
		}
	} else {
		fix += fmt.Sprintf(", or intervals %.1f times as long", float64(tenths)/10)
	}
	report("maxCallsPerMinute", problem, fix)
}

// slowest returns the shortest interval with which the only poll keeps to the quota.
func (s Source) slowest(p Poll, most int) time.Duration {
	const step = 10 * time.Millisecond
	ticks := time.Duration(most / (p.callsPerTick() + s.Retries))
	return max(p.Interval, (time.Minute/ticks+step-1)/step*step)
}

// fewerPositions returns the largest maxPerTick with which polls that follow keep to the
// quota; 0 if there are none, or no number is small enough.
func (s Source) fewerPositions(most int) int {
	fewer, longest := s, 0
	fewer.Polls = maps.Clone(s.Polls)
	for name, p := range s.Polls {
		if p.Follow == nil {
			continue
		}
		longest = max(longest, p.Follow.WithDefaults().MaxPerTick)
		f := *p.Follow
		p.Follow = &f
		fewer.Polls[name] = p
	}
	for n := longest - 1; n > 0; n-- {
		for _, p := range fewer.Polls {
			if p.Follow != nil {
				p.Follow.MaxPerTick = n
			}
		}
		if fewer.callsInAnyMinute(1) <= most {
			return n
		}
	}
	return 0
}

// callsInAnyMinute returns the most calls that one upstream gets in a minute, with every
// retry, if all intervals were stretch times as long.
func (s Source) callsInAnyMinute(stretch float64) (n int) {
	for _, p := range s.Polls {
		interval := max(MinInterval, time.Duration(stretch*float64(p.WithDefaults(s).Interval)))
		n += int((time.Minute+interval-1)/interval) * (p.callsPerTick() + s.Retries)
	}
	return n
}

// DisplayName returns scheme and host of a URL, made unique among the upstreams of a
// source: seen counts the names so far.
func DisplayName(address string, seen map[string]int) string {
	name := "upstream"
	if u, err := url.Parse(address); err == nil {
		name = u.Scheme + "://" + u.Host
	}
	if seen[name]++; seen[name] > 1 {
		return name + "#" + strconv.Itoa(seen[name])
	}
	return name
}
