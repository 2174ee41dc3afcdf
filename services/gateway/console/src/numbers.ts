import { isObject, isScalar, type Json } from "./json.ts";

/** How many numbers of one value are looked at. */
export const MAX_LEAVES = 16;

/** How many elements of an array are looked into. */
const MAX_ELEMENTS = 4;

const MAX_DEPTH = 8;

/** A number inside a value. */
export interface NumericLeaf {
  /** Where it is, e.g. `cpu.cores[0]`; stays the same from value to value. */
  path: string;
  value: number;
}

/**
 * The first numbers of a value, in the order of its text. Numbers that are
 * written as strings count, decimal or hexadecimal: many RPCs answer so.
 */
export function numericLeaves(value: Json, max = MAX_LEAVES): NumericLeaf[] {
  const leaves: NumericLeaf[] = [];
  walk(value, "", 0);
  return leaves;

  function walk(v: Json, path: string, depth: number): void {
    if (leaves.length >= max || depth > MAX_DEPTH) return;
    if (isScalar(v)) {
      const n = numberOf(v);
      if (n !== undefined) leaves.push({ path, value: n });
    } else if (Array.isArray(v)) {
      const names = identities(v);
      for (const [i, item] of v.slice(0, MAX_ELEMENTS).entries()) {
        // Which object comes third is chance: without a name it has no history.
        if (names || isScalar(item)) walk(item, `${path}[${names?.[i] ?? i}]`, depth + 1);
      }
    } else {
      for (const key of Object.keys(v)) {
        walk(v[key] as Json, path ? `${path}.${key}` : key, depth + 1);
      }
    }
  }
}

/** The number a scalar stands for, or undefined. */
export function numberOf(v: Json): number | undefined {
  if (typeof v === "number") return Number.isFinite(v) ? v : undefined;
  if (typeof v === "bigint") return Number(v);
  if (typeof v !== "string" || v.length > 20) return undefined;
  if (/^-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,12})?$/.test(v)) return Number(v);
  if (/^0x[0-9a-f]{1,13}$/i.test(v)) return parseInt(v, 16);
  return undefined;
}

/**
 * Names for the elements of an array of objects: the first string field that is
 * a string in all of them and different in each. A list that is sorted anew on
 * every poll then keeps its lines apart.
 */
export function identities(items: Json[]): string[] | undefined {
  const first = items[0];
  if (items.length > 1_000 || !isObject(first)) return undefined;
  for (const field of Object.keys(first)) {
    if (typeof first[field] !== "string") continue;
    const names = items.map((item) => (isObject(item) ? item[field] : undefined));
    if (names.every((n) => typeof n === "string") && new Set(names).size === names.length) {
      return names as string[];
    }
  }
  return undefined;
}
