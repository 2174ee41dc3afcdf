import assert from "node:assert/strict";
import { test } from "node:test";
import { identities, numberOf, numericLeaves } from "../src/numbers.ts";
import { MAX_POINTS, Series, SeriesSet } from "../src/series.ts";

test("numbers are found in the order of the value", () => {
  const value = { host: "a", up: 7, cpu: { percent: 1.5, cores: [1, 2] }, ok: true, none: null };
  assert.deepEqual(numericLeaves(value), [
    { path: "up", value: 7 },
    { path: "cpu.percent", value: 1.5 },
    { path: "cpu.cores[0]", value: 1 },
    { path: "cpu.cores[1]", value: 2 },
  ]);
});

test("a value that is a number is its own leaf", () => {
  assert.deepEqual(numericLeaves(42), [{ path: "", value: 42 }]);
});

test("numbers in strings count, decimal and hexadecimal", () => {
  for (const [v, want] of [
    ["0", 0],
    ["2565963", 2565963],
    ["-1.5", -1.5],
    ["0x154dfb0", 0x154dfb0],
    ["", undefined],
    ["007", undefined],
    ["1e3", undefined],
    ["12 ", undefined],
    ["0x", undefined],
    ["0xffffffffffffffffff", undefined],
    ["123456789012345678901", undefined],
    [Infinity, undefined],
    [true, undefined],
    [10n ** 20n, 1e20],
  ] as const) {
    assert.equal(numberOf(v), want, String(v));
  }
});

test("elements are known by name, so that a list may be sorted anew", () => {
  const a = { pid: 1, name: "a", cpu: 10 };
  const b = { pid: 2, name: "b", cpu: 20 };
  assert.deepEqual(identities([a, b]), ["a", "b"]);
  const paths = (v: object[]) => numericLeaves(v as never).filter((l) => l.path === "[a].cpu");
  assert.deepEqual(paths([a, b]), paths([b, a]));
  assert.equal(identities([a, { ...b, name: "a" }]), undefined, "not different");
  assert.equal(identities([a, 7]), undefined, "not all objects");
  assert.equal(identities([]), undefined);
});

test("however large or deep a value is, few numbers are looked at", () => {
  const wide = Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`k${i}`, i]));
  assert.equal(numericLeaves(wide).length, 16);
  let deep: object = { n: 1 };
  for (let i = 0; i < 5_000; i++) deep = { deep };
  assert.deepEqual(numericLeaves(deep as never), []);
});

test("a series keeps its last points and never goes back in time", () => {
  const s = new Series("x");
  for (let i = 0; i < 500; i++) s.add({ t: i, v: i });
  assert.equal(s.points.length, MAX_POINTS);
  assert.deepEqual(s.points[0], { t: 380, v: 380 });
  s.add({ t: 3, v: 1 });
  assert.deepEqual(s.points.at(-1), { t: 499, v: 1 });
});

test("numbers that move are shown before those that only grow, in the order of the value", () => {
  const set = new SeriesSet(16, 2);
  for (let i = 0; i < 4; i++) {
    set.add(
      [
        { path: "uptime", value: i },
        { path: "total", value: 5 },
        { path: "cpu", value: i % 2 },
        { path: "load", value: -i },
      ],
      i,
    );
  }
  assert.deepEqual(set.shown.map((s) => s.path), ["cpu", "load"]);
});

test("a number with a name is shown before one of a row", () => {
  const set = new SeriesSet(16, 2);
  for (let i = 0; i < 4; i++) {
    const v = i % 2;
    set.add([{ path: "cores[0]", value: v }, { path: "cores[1]", value: v }, { path: "load", value: v }], i);
  }
  assert.deepEqual(set.shown.map((s) => s.path), ["cores[0]", "load"]);
});

test("a number that does not change gets no line", () => {
  const set = new SeriesSet(16, 4);
  for (let i = 0; i < 10; i++) set.add([{ path: "total", value: 5 }], i);
  assert.deepEqual(set.shown, []);
});

test("once settled, lines do not jump", () => {
  const set = new SeriesSet(16, 1);
  const add = (a: number, b: number, t: number) => set.add([{ path: "a", value: a }, { path: "b", value: b }], t);
  for (let i = 0; i < 30; i++) add(1, i, i);
  assert.deepEqual(set.shown.map((s) => s.path), ["b"]);
  for (let i = 30; i < 60; i++) add(i % 3, i, i);
  assert.deepEqual(set.shown.map((s) => s.path), ["b"]);
});

test("numbers whose names come and go do not pile up", () => {
  const set = new SeriesSet(4, 4);
  for (let i = 0; i < 1_000; i++) {
    set.add(Array.from({ length: 8 }, (_, k) => ({ path: `p${i + k}`, value: i % 3 })), i);
    assert.ok(set.shown.length <= 4);
    for (const s of set.shown) assert.ok(s.points.length <= 8, s.path);
  }
});

test("a number that is not in the value has no line, and none when it comes back", () => {
  const set = new SeriesSet(16, 4);
  const add = (t: number, ...paths: string[]) => set.add(paths.map((path) => ({ path, value: t % 2 })), t);
  for (let t = 0; t < 40; t++) add(t, "a", "b");
  add(40, "a");
  assert.deepEqual(set.shown.map((s) => s.path), ["a"]);
  add(41, "a", "b");
  assert.deepEqual(set.shown.map((s) => s.path), ["a"], "one point is no line");
  add(42, "a", "b");
  assert.deepEqual(set.shown.map((s) => s.path), ["a", "b"]);
});

test("objects without a name of their own have no history", () => {
  const top = { processes: [{ pid: 1, name: "a", cpu: 5 }, { pid: 2, name: "a", cpu: 4 }], count: 7 };
  assert.deepEqual(numericLeaves(top), [{ path: "count", value: 7 }]);
});

test("a counter that sometimes stands still is still a counter", () => {
  const s = new Series("rxBytes");
  for (const [t, v] of [1, 1, 2, 2, 5].entries()) s.add({ t, v });
  assert.equal(s.interest, 1);
});
