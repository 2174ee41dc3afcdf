import assert from "node:assert/strict";
import { test } from "node:test";
import { columnsOf, MAX_ROWS, outline } from "../src/outline.ts";

/** The rows as indented text. */
function text(value: unknown, limit = MAX_ROWS): string[] {
  return outline(value as never, limit).rows.map((r) => {
    const indent = "  ".repeat(r.depth);
    if (r.kind === "leaf") return `${indent}${r.label}: ${r.cell.text}`;
    if (r.kind === "group") return `${indent}${r.label}`;
    return `${indent}${r.label} [${r.columns.join(" ")}] ${r.cells.map((c) => c.map((x) => x.text).join(" ")).join(" | ")}`;
  });
}

test("objects are groups, scalars are leaves", () => {
  assert.deepEqual(text({ host: "a", cpu: { load: 1.5, deep: { x: null } }, ok: true }), [
    "host: a",
    "cpu",
    "  load: 1.5",
    "  deep",
    "    x: null",
    "ok: true",
  ]);
});

test("a scalar is one leaf", () => {
  assert.deepEqual(text(7), ["value: 7"]);
  assert.deepEqual(text(null), ["value: null"]);
});

test("arrays: scalars on one line, objects as a table, others as a group", () => {
  assert.deepEqual(text({ cores: [1, 2.5], none: [], some: [{ a: 1, b: "x" }, { a: 2, c: [1] }], mixed: [1, { a: 2 }] }), [
    "cores: 1, 2.5",
    "none: [ ]",
    "some [a b c] 1 x  | 2  1",
    "mixed",
    "  [0]: 1",
    "  [1]",
    "    a: 2",
  ]);
});

test("a list of objects is a table by itself", () => {
  assert.deepEqual(text([{ a: 1 }, { a: 2 }]), [" [a] 1 | 2"]);
});

test("only the first leaves are shown, the others counted, and no group is empty", () => {
  const value = { a: 1, b: { c: 2, d: 3 }, e: { f: 4 } };
  assert.deepEqual(text(value, 2), ["a: 1", "b", "  c: 2"]);
  assert.equal(outline(value, 2).hidden, 2);
  assert.deepEqual(text(value, 1), ["a: 1"]);
  assert.equal(outline([{ a: 1 }, { a: 2 }, { a: 3 }], 2).hidden, 1);
});

test("however large or deep a value is, few rows come of it", () => {
  const wide = Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`k${i}`, i]));
  const o = outline(wide, MAX_ROWS);
  assert.equal(o.rows.length, MAX_ROWS);
  assert.ok(o.hidden >= 5_000);
  let deep: object = { n: 1 };
  for (let i = 0; i < 5_000; i++) deep = { deep };
  assert.ok(outline(deep as never, MAX_ROWS).rows.length < 10);
  assert.ok((text({ long: "x".repeat(10_000) })[0] ?? "").length < 400);
});

test("columns: scalars first, no more than a table has room for", () => {
  assert.deepEqual(columnsOf([{ list: [1], a: 1 }, { b: 2 }]), ["a", "b", "list"]);
  assert.equal(columnsOf([Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`k${i}`, i]))]).length, 8);
});

test("what an object inherits is no field", () => {
  assert.deepEqual(text([{ a: 1 }, JSON.parse(`{"__proto__":{"a":5},"constructor":2}`)]), [
    " [a constructor __proto__] 1   |  2 { a }",
  ]);
});
