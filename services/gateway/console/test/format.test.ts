import assert from "node:assert/strict";
import { test } from "node:test";
import { ago, bytes, clockTime, compact, countdown, duration, interval, measured, scalar } from "../src/format.ts";

/** With plain spaces, to be read. */
function plain(s: string): string {
  return s.replaceAll(/[\u00a0\u202f]/g, " ");
}

function each(f: (n: number) => string, cases: readonly (readonly [number, string])[]): void {
  for (const [n, want] of cases) assert.equal(plain(f(n)), want, String(n));
}

test("durations are cut, never rounded up", () => {
  each(duration, [
    [-5, "0 s"],
    [999, "0 s"],
    [59_999, "59 s"],
    [60_000, "1 min"],
    [192_000, "3 min 12 s"],
    [3_599_000, "59 min"],
    [3_600_000, "1 h"],
    [18_720_000, "5 h 12 min"],
    [172_800_000, "2 d"],
    [270_000_000, "3 d 3 h"],
  ]);
});

test("ages", () => {
  each(ago, [
    [0, "just now"],
    [999, "just now"],
    [2_000, "2 s ago"],
    [200_000, "3 min 20 s ago"],
  ]);
});

test("a countdown is rounded up: at 0:00 it is time", () => {
  each(countdown, [
    [272_000, "4:32"],
    [1, "0:01"],
    [0, "0:00"],
    [-500, "0:00"],
    [3_723_000, "1:02:03"],
  ]);
});

test("intervals", () => {
  each(interval, [
    [250, "250 ms"],
    [2_500, "2.5 s"],
    [12_000, "12 s"],
    [300_000, "5 min"],
  ]);
});

test("numbers for labels", () => {
  each(compact, [
    [0, "0"],
    [1234, "1234"],
    [22334455, "22 334 455"],
    [-12345, "-12 345"],
    [58.94321, "58.94"],
    [0.000012345, "0.00001234"],
    [123456.789, "123.5 k"],
    [1.5e9, "1.5 G"],
    [1e20, "1.000e+20"],
  ]);
});

test("bytes", () => {
  each(bytes, [
    [0, "0 B"],
    [1023, "1023 B"],
    [1536, "1.5 KiB"],
    [17179869184, "16 GiB"],
  ]);
});

test("a name that ends in its unit says how to write the number", () => {
  for (const [name, n, want] of [
    ["totalBytes", 17179869184, "16 GiB"],
    ["rx_bytes_per_second", 2048, "2 KiB/s"],
    ["rxBytesPerSecond", 2048, "2 KiB/s"],
    ["usedPercent", 37.25, "37.25 %"],
    ["uptimeSeconds", 345_600, "4 d"],
    ["seconds", 5, "5"],
    ["total", 17179869184, "17.18 G"],
    ["kilobytesish", 2048, "2048"],
  ] as const) {
    assert.equal(plain(measured(name, n)), want, name);
  }
});

test("scalars are exact where no unit is known", () => {
  for (const [v, want] of [
    [17179869184, "17179869184"],
    [0.1 + 0.2, "0.3"],
    [1234567.89, "1234567.89"],
    [true, "true"],
    [null, "null"],
    [123456789012345678901234567890n, "123456789012345678901234567890"],
    ["<b>", "<b>"],
  ] as const) {
    assert.equal(scalar("x", v), want);
  }
  assert.equal(scalar("x", "y".repeat(1_000)).length, 301);
});

test("the time of day", () => {
  assert.equal(clockTime(new Date(2026, 0, 2, 3, 4, 5).getTime()), "03:04:05");
});
