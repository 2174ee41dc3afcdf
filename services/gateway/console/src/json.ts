/** A value of a poll. Integers that a double cannot hold arrive as bigint. */
export type Json = null | boolean | number | bigint | string | Json[] | { [key: string]: Json };

export type JsonObject = { [key: string]: Json };

/** True for the objects of JSON, false for arrays and null. */
export function isObject(v: unknown): v is JsonObject {
  return typeof v === "object" && v !== null && !Array.isArray(v);
}

/** True for what has no inside: everything but objects and arrays. */
export function isScalar(v: Json): v is null | boolean | number | bigint | string {
  return typeof v !== "object" || v === null;
}

type Source = { source?: string };

/**
 * Parses JSON without rounding large integers, where the engine tells the
 * source text of a number (every browser of 2025 does). The reviver is slow, so
 * it only runs on texts that have such a number.
 */
export function parseJson(text: string): unknown {
  if (!/[0-9]{16}/.test(text)) return JSON.parse(text);
  return JSON.parse(text, function (_key: string, v: unknown, context?: Source) {
    const source = context?.source;
    if (typeof v === "number" && source && !Number.isSafeInteger(v) && /^-?[0-9]+$/.test(source)) {
      return BigInt(source);
    }
    return v;
  });
}
