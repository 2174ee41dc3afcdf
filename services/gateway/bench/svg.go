//go:build linux

package main

import (
	"fmt"
	"html"
	"strings"
	"time"
)

// panel is one chart: groups of bars on one scale.
type panel struct {
	title  string
	groups []group
}

type group struct {
	name   string
	bars   []bar // in the order of kinds
	target float64
}

type bar struct {
	value float64
	text  string
}

// The sizes are in pixels.
const (
	svgWidth   = 900
	labelWidth = 330
	barsWidth  = 400
	barHeight  = 14
	groupGap   = 16
)

// fills are the kinds' colours. They differ in brightness too, for readers without
// colour vision.
var fills = []string{"#9aa5b1", "#d9a441", "#1f6feb"}

// panels returns a chart for each figure that has targets.
func (r report) panels() []panel {
	cpu := panel{title: "CPU per delivered frame, as a multiple of the floor's"}
	late := panel{title: "p99 from publishing to reading, as a multiple of the floor's"}
	mem := panel{title: "Resident memory per idle subscribed client, KB"}
	for _, o := range r.rows {
		if len(o.servers) != len(kinds) {
			continue
		}
		all := func(get func(figures) (float64, string)) (bars []bar) {
			for _, f := range o.servers {
				value, text := get(f)
				bars = append(bars, bar{value, text})
			}
			return bars
		}
		if o.row.cpu > 0 {
			bars := all(func(f figures) (float64, string) {
				return f.cpuOver, fmt.Sprintf("%.2f  (%.2f us)", f.cpuOver, f.cpu)
			})
			cpu.groups = append(cpu.groups, group{o.row.name, bars, o.row.cpu})
		}
		if o.row.p99 > 0 {
			bars := all(func(f figures) (float64, string) {
				return f.p99Over, fmt.Sprintf("%.2f  (%.1f ms)", f.p99Over, f.p99)
			})
			late.groups = append(late.groups, group{o.row.name, bars, o.row.p99})
		}
		if o.row.rss > 0 {
			bars := all(func(f figures) (float64, string) { return f.rss, fmt.Sprintf("%.1f", f.rss) })
			mem.groups = append(mem.groups, group{o.row.name, bars, o.row.rss})
		}
	}
	var out []panel
	for _, p := range []panel{cpu, late, mem} {
		if len(p.groups) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// svg draws the panels below each other.
func (r report) svg() []byte {
	var b strings.Builder
	y := 34
	text := func(x, y int, size int, style, s string) {
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="%d" %s>%s</text>`+"\n", x, y, size, style, html.EscapeString(s))
	}
	text(16, y, 18, `font-weight="bold"`, "What a delivered frame costs")
	y += 20
	text(16, y, 12, `fill="#57606a"`, r.machine+"; "+r.date.Format(time.DateOnly))
	y += 24
	for i, kind := range []string{
		"floor: one write(2) per client and event, no protocol",
		"textbook hub: a channel and a write pump per client",
		"Pollcast's gateway",
	} {
		fmt.Fprintf(&b, `<rect x="16" y="%d" width="12" height="12" fill="%s"/>`+"\n", y-11, fills[i])
		text(34, y, 12, "", kind)
		y += 18
	}
	fmt.Fprintf(&b, `<path d="M21 %d v14" stroke="#cf222e" stroke-width="2"/>`+"\n", y-11)
	text(34, y, 12, "", "the gateway's target: its bar should end before the line")
	for _, p := range r.panels() {
		y += 40
		text(16, y, 14, `font-weight="bold"`, p.title)
		y += 12
		most := 0.0
		for _, g := range p.groups {
			most = max(most, g.target*1.05)
			for _, v := range g.bars {
				most = max(most, v.value)
			}
		}
		scale := barsWidth / most
		for _, g := range p.groups {
			top := y + groupGap/2
			middle := top + len(g.bars)*barHeight/2
			lines := wrap(g.name, 48)
			for i, line := range lines {
				text(labelWidth-10, middle+4+(2*i-len(lines)+1)*8, 12, `text-anchor="end"`, line)
			}
			for i, v := range g.bars {
				fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n",
					labelWidth, top+i*barHeight, max(1, v.value*scale), barHeight-2, fills[i])
				end := v.value
				if i == len(g.bars)-1 {
					end = max(end, g.target) // the text must not cross the line
				}
				text(labelWidth+int(end*scale)+8, top+(i+1)*barHeight-4, 11, "", v.text)
			}
			gate := top + (len(g.bars)-1)*barHeight
			fmt.Fprintf(&b, `<path d="M%.1f %d v%d" stroke="#cf222e" stroke-width="2"/>`+"\n",
				labelWidth+g.target*scale, gate-3, barHeight+4)
			y = top + len(g.bars)*barHeight + groupGap/2
		}
	}
	y += 20
	const head = `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" `
	return fmt.Appendf(nil, head+`font-family="system-ui, sans-serif" fill="#1f2328">
<rect width="%[1]d" height="%[2]d" fill="#ffffff"/>
%s</svg>
`, svgWidth, y, b.String())
}

// wrap breaks a name into lines of at most most characters.
func wrap(s string, most int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(s) {
		if line != "" && len(line)+1+len(word) > most {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
