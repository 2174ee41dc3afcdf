//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// outcome is a measured row: of three servers, of the gateway alone, or a time.
type outcome struct {
	row     row
	servers []figures // in the order of kinds; or only the gateway's
	ms      float64
}

type report struct {
	machine string
	date    time.Time
	rows    []outcome
}

const tableHead = "| work | server | CPU per frame, us | x floor | frames/s | p50, ms | p99, ms | x floor " +
	"| p99.9, ms | KB per client | target |\n|---|---|---|---|---|---|---|---|---|---|---|\n"

// demand is a figure and its target.
type demand struct {
	what       string
	have, want float64
	unit       string
}

func (d demand) met() bool { return d.have <= d.want }

func (d demand) String() string {
	verdict := "met"
	if !d.met() {
		verdict = "**missed**"
	}
	return fmt.Sprintf("%s <= %.4g%s: %s", d.what, d.want, d.unit, verdict)
}

// demands lists the gateway's figures that have a target.
func (o outcome) demands() []demand {
	var out []demand
	add := func(what string, have, want float64, unit string) {
		if want > 0 {
			out = append(out, demand{what, have, want, unit})
		}
	}
	var g figures
	if len(o.servers) > 0 {
		g = o.servers[len(o.servers)-1]
	}
	add("CPU", g.cpuOver, o.row.cpu, " x floor")
	add("p99", g.p99Over, o.row.p99, " x floor")
	add("RSS", g.rss, o.row.rss, " KB")
	what := "p99"
	if len(o.servers) == 0 {
		what = "time"
	}
	add(what, o.ms, o.row.ms, " ms")
	return out
}

// lines returns the row's lines of the table.
func (o outcome) lines() string {
	var b strings.Builder
	var asked []string
	for _, d := range o.demands() {
		asked = append(asked, d.String())
	}
	target := strings.Join(asked, "; ")
	if len(o.servers) == 0 {
		fmt.Fprintf(&b, "| %s | gateway | | | | | %.0f | | | | %s |\n", o.row.name, o.ms, target)
		return b.String()
	}
	for i, f := range o.servers {
		name, kind, asks, mem := o.row.name, kinds[i], "", ""
		over, late := fmt.Sprintf("%.2f", f.cpuOver), fmt.Sprintf("%.2f", f.p99Over)
		if i > 0 {
			name = ""
		}
		if i == len(o.servers)-1 {
			kind, asks = "**gateway**", target
		}
		if len(o.servers) == 1 {
			over, late = "", ""
		}
		if f.rss > 0 {
			mem = fmt.Sprintf("%.1f", f.rss)
		}
		fmt.Fprintf(&b, "| %s | %s | %.2f | %s | %.0f | %.2f | %.2f | %s | %.1f | %s | %s |\n",
			name, kind, f.cpu, over, f.rate, f.p50, f.p99, late, f.p999, mem, asks)
	}
	return b.String()
}

// machine describes the machine of the run.
func machine() string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(b), "model name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			model = strings.TrimSpace(strings.TrimLeft(line, "\t :"))
		}
	}
	var u syscall.Utsname
	release := ""
	if syscall.Uname(&u) == nil {
		for _, c := range u.Release {
			if c == 0 || c == '-' {
				break
			}
			release += string(rune(c))
		}
	}
	load := "?"
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ = strings.Cut(string(b), " ")
	}
	return fmt.Sprintf("%d cores of %s, Linux %s, %s, load %s before it began",
		runtime.NumCPU(), model, release, runtime.Version(), load)
}

const pageBegin, pageEnd = "<!-- bench-fanout: begin -->", "<!-- bench-fanout: end -->"

// into puts the table between the page's markers.
func (r report) into(page string) error {
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(old, []byte(pageBegin))
	_, after, closed := bytes.Cut(rest, []byte(pageEnd))
	if !ok || !closed {
		return fmt.Errorf("%s has no %s ... %s", page, pageBegin, pageEnd)
	}
	var b bytes.Buffer
	b.Write(before)
	fmt.Fprintf(&b, "%s\n\nRun on %s; %s.\n\n%s", pageBegin, r.date.Format("2 January 2006"), r.machine, tableHead)
	for _, o := range r.rows {
		b.WriteString(o.lines())
	}
	b.WriteString("\n" + pageEnd)
	b.Write(after)
	return os.WriteFile(page, b.Bytes(), 0o644)
}
