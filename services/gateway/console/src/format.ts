import { isScalar, type Json } from "./json.ts";

const MINUTE = 60;
const HOUR = 3_600;
const DAY = 86_400;

/** Between a number and its unit, which stay on one line. */
const NBSP = "\u00a0";

/** A duration in words, cut to whole units: "42 s", "3 min 12 s", "5 h 12 min". */
export function duration(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < MINUTE) return `${s}${NBSP}s`;
  if (s < 10 * MINUTE) return two(Math.floor(s / MINUTE), "min", s % MINUTE, "s");
  if (s < HOUR) return `${Math.floor(s / MINUTE)}${NBSP}min`;
  if (s < 2 * DAY) return two(Math.floor(s / HOUR), "h", Math.floor((s % HOUR) / MINUTE), "min");
  return two(Math.floor(s / DAY), "d", Math.floor((s % DAY) / HOUR), "h");
}

function two(a: number, unitA: string, b: number, unitB: string): string {
  return [a, unitA, ...(b ? [b, unitB] : [])].join(NBSP);
}

/** An age in words: "just now", "2 s ago". */
export function ago(ms: number): string {
  return ms < 1000 ? "just now" : `${duration(ms)}${NBSP}ago`;
}

/** An interval as it was configured: "250 ms", "2.5 s", "5 min". */
export function interval(ms: number): string {
  if (ms < 1000) return `${ms}${NBSP}ms`;
  if (ms < MINUTE * 1000) return `${ms / 1000}${NBSP}s`;
  return duration(ms);
}

/** Time left on a clock face, rounded up: "0:07", "4:32", "1:02:03". */
export function countdown(ms: number): string {
  const s = Math.max(0, Math.ceil(ms / 1000));
  const pad = (n: number) => String(n).padStart(2, "0");
  const minutes = Math.floor((s % HOUR) / MINUTE);
  if (s < HOUR) return `${minutes}:${pad(s % MINUTE)}`;
  return `${Math.floor(s / HOUR)}:${pad(minutes)}:${pad(s % MINUTE)}`;
}

/** A number for a small label: integers in groups, others to four digits; k, M, G, T. */
export function compact(n: number): string {
  const abs = Math.abs(n);
  if (Number.isInteger(n) && abs < 1e9) return grouped(n);
  if (abs < 10_000) return trim(n, 4);
  for (const [unit, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]] as const) {
    if (abs >= size) return abs < size * 10_000 ? `${trim(n / size, 4)}${NBSP}${unit}` : n.toExponential(3);
  }
  return String(n);
}

/** An integer with a narrow space between thousands, from five digits on. */
function grouped(n: number): string {
  const text = String(n);
  return Math.abs(n) < 10_000 ? text : text.replaceAll(/\B(?=([0-9]{3})+$)/g, "\u202f");
}

/** Bytes in binary units: "1.5 GiB". */
export function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let i = 0;
  while (Math.abs(n) >= 1024 && i < units.length - 1) {
    n /= 1024;
    i++;
  }
  return `${trim(n, 4)}${NBSP}${units[i]}`;
}

function trim(n: number, digits: number): string {
  return String(Number(n.toPrecision(digits)));
}

/**
 * A number as its name says it is meant: the names end in the unit, as is usual
 * in JSON (`totalBytes`, `bytes_per_second`, `usedPercent`, `uptimeSeconds`).
 */
export function measured(name: string, n: number): string {
  const words = name.replaceAll(/([a-z0-9])([A-Z])/g, "$1 $2").toLowerCase();
  const rate = /(per[ _-]?(second|sec|s)|[ _-]ps)$/.test(words);
  if (/(^|[ _-])bytes([ _-]|$)/.test(words)) return bytes(n) + (rate ? "/s" : "");
  if (/(^|[ _-])(percent|pct)$/.test(words)) return `${compact(n)}${NBSP}%`;
  if (/(^|[ _-])(seconds|secs)$/.test(words) && Math.abs(n) >= 60) return duration(n * 1000);
  return compact(n);
}

/** Longest text shown of one string. */
const MAX_TEXT = 300;

/** A scalar as text, exact where that is short. */
export function scalar(name: string, v: Json): string {
  if (typeof v === "number") {
    const text = measured(name, v);
    return text === compact(v) ? exact(v) : text;
  }
  if (typeof v === "string") return v.length > MAX_TEXT ? `${v.slice(0, MAX_TEXT)}…` : v;
  return isScalar(v) ? String(v) : "";
}

/** Integers as they are, others to four places or, below 1, six digits. */
function exact(n: number): string {
  if (Number.isInteger(n)) return String(n);
  return Math.abs(n) < 1 ? trim(n, 6) : String(Number(n.toFixed(4)));
}

/** A time of day on the local clock: "14:03:09". */
export function clockTime(wall: number): string {
  const d = new Date(wall);
  return [d.getHours(), d.getMinutes(), d.getSeconds()].map((n) => String(n).padStart(2, "0")).join(":");
}
