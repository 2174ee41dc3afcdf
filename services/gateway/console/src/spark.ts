import type { Point } from "./series.ts";

/** A stretch of local time in which the values were stale; open at the end while they are. */
export interface Span {
  from: number;
  to: number | undefined;
}

export interface Frame {
  now: number;
  /** The poll's interval in milliseconds. */
  interval: number;
  width: number;
  height: number;
}

/** A sparkline in the units of its frame; empty paths where there is nothing. */
export interface Sparkline {
  /** The line where the value was confirmed, as an SVG path. */
  live: string;
  /** The line where it only stood there. */
  held: string;
  /** The stale stretches. */
  stale: { x: number; width: number }[];
  min: number;
  max: number;
  /** Where the line ends. */
  end: { x: number; y: number } | undefined;
}

/** Space above and below the line for its own thickness. */
const MARGIN = 2;

/** A sparkline starts at this many intervals wide and grows to MAX_STEPS. */
const MIN_STEPS = 10;
const MAX_STEPS = 120;

/** Least height of the scale relative to the values: noise must not look like a storm. */
const MIN_RANGE = 0.02;

/** Scales the points to the frame. The right edge is now. */
export function sparkline(points: readonly Point[], spans: readonly Span[], f: Frame): Sparkline {
  const line = vertices(points, spans, f);
  const first = line[0];
  if (!first) return { live: "", held: "", stale: [], min: 0, max: 0, end: undefined };

  const steps = Math.min(Math.max((f.now - first.t) / f.interval, MIN_STEPS), MAX_STEPS);
  const from = f.now - steps * f.interval;
  const visible = clip(line, from, f.now);
  const { low, high, min, max } = scale(visible);
  const x = (t: number) => ((t - from) / (f.now - from)) * f.width;
  const y = (v: number) => MARGIN + (1 - (v - low) / (high - low)) * (f.height - 2 * MARGIN);

  const start = Math.max(from, first.t);
  const dark = spans
    .map((s) => ({ from: Math.max(s.from, start), to: Math.min(s.to ?? f.now, f.now) }))
    .filter((s) => s.to > s.from);
  const last = visible.at(-1);
  return {
    live: gaps(dark, start, f.now).map((s) => path(clip(visible, s.from, s.to), x, y)).join(""),
    held: dark.map((s) => path(clip(visible, s.from, s.to), x, y)).join(""),
    stale: dark.map((s) => ({ x: x(s.from), width: x(s.to) - x(s.from) })),
    min,
    max,
    end: last && { x: x(last.t), y: y(last.v) },
  };
}

/**
 * The corners of the line: straight between values of following polls, flat
 * where no event came for longer, because then the value did not change, and
 * flat where it was stale, because then nobody knew.
 */
function vertices(points: readonly Point[], spans: readonly Span[], f: Frame): Point[] {
  const line: Point[] = [];
  for (const p of points) {
    const last = line.at(-1);
    if (last) {
      let until = p.t - last.t > 2 * f.interval ? p.t - f.interval : last.t;
      for (const s of spans) if (s.from < p.t) until = Math.max(until, Math.min(s.to ?? p.t, p.t));
      if (until > last.t) line.push({ t: until, v: last.v });
    }
    line.push(p);
  }
  const last = line.at(-1);
  if (last && last.t < f.now) line.push({ t: f.now, v: last.v });
  return line;
}

/** The part of the line between two times, cut exactly there. */
function clip(line: Point[], from: number, to: number): Point[] {
  const out: Point[] = [];
  for (const [i, p] of line.entries()) {
    const before = line[i - 1];
    if (before && before.t < from && p.t > from) out.push(between(before, p, from));
    if (p.t >= from && p.t <= to) out.push(p);
    if (before && before.t < to && p.t > to) out.push(between(before, p, to));
  }
  return out;
}

function between(a: Point, b: Point, t: number): Point {
  return { t, v: a.v + ((b.v - a.v) * (t - a.t)) / (b.t - a.t) };
}

/** What lies between the stretches, which are in order and apart. */
function gaps(dark: { from: number; to: number }[], from: number, to: number): { from: number; to: number }[] {
  const out: { from: number; to: number }[] = [];
  let at = from;
  for (const s of dark) {
    if (s.from > at) out.push({ from: at, to: s.from });
    at = s.to;
  }
  if (to > at) out.push({ from: at, to });
  return out;
}

function scale(line: Point[]): { low: number; high: number; min: number; max: number } {
  let min = Infinity;
  let max = -Infinity;
  for (const { v } of line) {
    min = Math.min(min, v);
    max = Math.max(max, v);
  }
  const least = Math.max(Math.abs(min), Math.abs(max)) * MIN_RANGE || 1;
  const pad = Math.max(0, least - (max - min)) / 2;
  return { low: min - pad, high: max + pad, min, max };
}

function path(line: Point[], x: (t: number) => number, y: (v: number) => number): string {
  if (line.length < 2) return "";
  return "M" + line.map((p) => `${round(x(p.t))} ${round(y(p.v))}`).join("L");
}

function round(n: number): number {
  return Math.round(n * 10) / 10;
}
