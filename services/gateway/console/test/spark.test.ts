import assert from "node:assert/strict";
import { test } from "node:test";
import { sparkline, type Frame } from "../src/spark.ts";

// 10 intervals of 1 s on 100 units: 10 units are a second.
const frame: Frame = { now: 10_000, interval: 1_000, width: 100, height: 20 };

/** The corners of a path. */
function corners(d: string): [number, number][][] {
  return d
    .split("M")
    .filter(Boolean)
    .map((part) => part.split("L").map((p) => p.split(" ").map(Number) as [number, number]));
}

test("the scale goes from the least to the greatest, the right edge is now", () => {
  const points = [{ t: 0, v: 0 }, { t: 5_000, v: 100 }, { t: 10_000, v: 50 }];
  const s = sparkline(points, [], { ...frame, interval: 5_000 });
  assert.deepEqual(corners(s.live), [[[80, 18], [90, 2], [100, 10]]]);
  assert.deepEqual([s.min, s.max], [0, 100]);
  assert.deepEqual(s.end, { x: 100, y: 10 });
});

test("values of following polls are joined straight", () => {
  const points = [{ t: 8_000, v: 0 }, { t: 9_000, v: 10 }, { t: 10_000, v: 0 }];
  assert.deepEqual(corners(sparkline(points, [], frame).live), [[[80, 18], [90, 2], [100, 18]]]);
});

test("where no event came the line is flat, because the value did not change", () => {
  const points = [{ t: 0, v: 0 }, { t: 8_000, v: 10 }];
  assert.deepEqual(corners(sparkline(points, [], frame).live), [[[0, 18], [70, 18], [80, 2], [100, 2]]]);
});

test("a stale stretch is cut out of the live line and held flat", () => {
  const points = [{ t: 0, v: 0 }, { t: 6_000, v: 10 }];
  const s = sparkline(points, [{ from: 2_000, to: 6_000 }], frame);
  assert.deepEqual(s.stale, [{ x: 20, width: 40 }]);
  assert.deepEqual(corners(s.held), [[[20, 18], [60, 18], [60, 2]]], "flat until the value is known again");
  const [before, after] = corners(s.live);
  assert.deepEqual(before?.at(-1), [20, 18]);
  assert.deepEqual(after?.at(-1), [100, 2]);
});

test("a stretch that is stale now reaches to the edge", () => {
  const s = sparkline([{ t: 0, v: 1 }, { t: 1_000, v: 2 }], [{ from: 4_000, to: undefined }], frame);
  assert.deepEqual(s.stale, [{ x: 40, width: 60 }]);
  assert.equal(corners(s.live).at(-1)?.at(-1)?.[0], 40);
});

test("nothing is drawn before the first point or after now", () => {
  const s = sparkline([{ t: 5_000, v: 1 }], [{ from: 0, to: 6_000 }], frame);
  assert.deepEqual(s.stale, [{ x: 50, width: 10 }]);
  for (const line of corners(s.live + s.held)) for (const [x] of line) assert.ok(x >= 50 && x <= 100, String(x));
});

test("old points leave at the left, cut at the edge", () => {
  const points = [{ t: 0, v: 0 }, { t: 1_000, v: 10 }, { t: 130_000, v: 5 }];
  const s = sparkline(points, [], { ...frame, now: 130_000 });
  const line = corners(s.live)[0] ?? [];
  assert.equal(line[0]?.[0], 0);
  assert.equal(s.min, 5, "what is out of sight does not scale");
  assert.equal(s.max, 10);
});

test("a constant is a line in the middle, whatever it is", () => {
  for (const v of [0, 5, -3, 1e15]) {
    const s = sparkline([{ t: 0, v }], [], frame);
    assert.deepEqual(corners(s.live), [[[0, 10], [100, 10]]], String(v));
  }
});

test("noise does not look like a storm", () => {
  const s = sparkline([{ t: 9_000, v: 1_000 }, { t: 10_000, v: 1_001 }], [], frame);
  const ys = corners(s.live).flat().map(([, y]) => y);
  assert.ok(Math.max(...ys) - Math.min(...ys) < 2, String(ys));
});

test("without points there is nothing", () => {
  assert.deepEqual(sparkline([], [{ from: 0, to: undefined }], frame), { live: "", held: "", stale: [], min: 0, max: 0, end: undefined });
});
