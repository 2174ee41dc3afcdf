import { scalar } from "./format.ts";
import { isObject, isScalar, type Json } from "./json.ts";
import { identities, numberOf } from "./numbers.ts";

// A value as lines of text: what the page shows of it, before any element.

/** A text with what is exact about it. */
export interface Cell {
  text: string;
  /** The exact value, where the text is not; may be empty. */
  title: string;
  kind: "number" | "string" | "other";
}

export type Row =
  | { kind: "group"; depth: number; label: string }
  | { kind: "leaf"; depth: number; label: string; cell: Cell }
  | { kind: "table"; depth: number; label: string; columns: string[]; cells: Cell[][]; more: number };

export interface Outline {
  rows: Row[];
  /** Leaves and table lines that are not in rows. */
  hidden: number;
}

/** Most leaves ever shown of one value. */
export const MAX_ROWS = 500;

const MAX_DEPTH = 6;
const MAX_COLUMNS = 8;

/** Scalars of an array that are written on one line. */
const MAX_INLINE = 24;

/** Most leaves that are counted: "at least so many". */
const MAX_COUNT = 5_000;

/** Writes the first leaves of a value as rows. */
export function outline(value: Json, limit: number): Outline {
  const rows: Row[] = [];
  let shown = 0;
  let hidden = 0;
  // A group's label is written when something under it is.
  let waiting: Row[] = [];
  walk(value, "", 0);
  return { rows, hidden };

  function emit(row: Row): void {
    rows.push(...waiting, row);
    waiting = [];
  }

  function walk(v: Json, label: string, depth: number): void {
    if (hidden > MAX_COUNT) return;
    if (isScalar(v) || depth > MAX_DEPTH || Object.keys(v).length === 0 || isFlat(v)) {
      if (shown >= limit) hidden++;
      else {
        shown++;
        emit({ kind: "leaf", depth: Math.max(0, depth - 1), label: label || "value", cell: cellOf(label, v) });
      }
    } else if (Array.isArray(v) && v.every(isObject)) {
      const room = Math.max(0, limit - shown);
      const lines = v.slice(0, room);
      hidden += v.length - lines.length;
      shown += lines.length;
      if (lines.length > 0) emit(table(lines, label, Math.max(0, depth - 1), v.length - lines.length));
    } else {
      if (label) waiting.push({ kind: "group", depth: depth - 1, label });
      for (const [key, inner] of Object.entries(v)) walk(inner, Array.isArray(v) ? `[${key}]` : key, depth + 1);
    }
  }
}

/** An array of scalars, which is written on one line. */
function isFlat(v: Json): boolean {
  return Array.isArray(v) && v.every(isScalar);
}

function table(items: Json[], label: string, depth: number, more: number): Row {
  const columns = columnsOf(items);
  const cells = items.map((item) => columns.map((c) => cellOf(c, field(item, c))));
  return { kind: "table", depth, label, columns, cells, more };
}

/** The columns that show the most of some objects: their fields, scalars first. */
export function columnsOf(items: Json[], max = MAX_COLUMNS): string[] {
  const scalars = new Set<string>();
  const others = new Set<string>();
  for (const item of items.slice(0, 50)) {
    if (!isObject(item)) continue;
    for (const [key, v] of Object.entries(item)) (isScalar(v) ? scalars : others).add(key);
  }
  return [...new Set([...scalars, ...others])].slice(0, max);
}

/** A field of an object; undefined when there is none. */
export function field(v: Json, key: string): Json | undefined {
  return isObject(v) && Object.hasOwn(v, key) ? v[key] : undefined;
}

/** A value as one cell. The name says the unit of a number. */
export function cellOf(name: string, v: Json | undefined): Cell {
  if (v === undefined) return { text: "", title: "", kind: "other" };
  if (isScalar(v)) {
    const text = scalar(name, v);
    const exact = String(v).slice(0, 2_000);
    const number = typeof v === "number" || typeof v === "bigint" || numberOf(v) !== undefined;
    return { text, title: text === exact ? "" : exact, kind: number ? "number" : typeof v === "string" ? "string" : "other" };
  }
  return { text: inline(name, v), title: "", kind: "other" };
}

function inline(name: string, v: Json): string {
  if (Array.isArray(v) && v.every(isScalar)) {
    if (v.length === 0) return "[ ]";
    const text = v.slice(0, MAX_INLINE).map((x) => scalar(name, x)).join(", ");
    return v.length > MAX_INLINE ? `${text}, … ${v.length - MAX_INLINE} more` : text;
  }
  const size = Array.isArray(v) ? v.length : Object.keys(v as object).length;
  if (Array.isArray(v)) {
    const names = identities(v);
    return names ? names.slice(0, 6).join(", ") + (names.length > 6 ? ", …" : "") : `[ ${size} ]`;
  }
  return size === 0 ? "{ }" : `{ ${Object.keys(v as object).slice(0, 6).join(", ")}${size > 6 ? ", …" : ""} }`;
}
