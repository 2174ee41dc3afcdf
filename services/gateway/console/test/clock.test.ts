import assert from "node:assert/strict";
import { test } from "node:test";
import { LocalClock, ServerClock } from "../src/clock.ts";

test("local time counts what the monotonic clock slept through", () => {
  let mono = 1_000;
  let wall = 50_000;
  const clock = new LocalClock(() => mono, () => wall);
  const before = clock.now();
  mono += 500;
  wall += 500;
  assert.equal(clock.now() - before, 500);
  // Ten minutes of sleep: only the wall clock saw them.
  mono += 100;
  wall += 600_100;
  assert.equal(clock.now() - before, 600_600);
});

test("a wall clock that is set back does not turn local time back", () => {
  let mono = 1_000;
  let wall = 5_000_000;
  const clock = new LocalClock(() => mono, () => wall);
  const before = clock.now();
  mono += 100;
  wall -= 3_600_000;
  assert.equal(clock.now() - before, 100);
  // And sleep is still seen afterwards.
  mono += 100;
  wall += 60_100;
  assert.equal(clock.now() - before, 60_200);
});

test("the fastest frame tells the gateway's clock", () => {
  const c = new ServerClock();
  assert.equal(c.toLocal(1_000_000), undefined);
  // The gateway's clock is 900,000 ahead; frames took 300, 20 and 100 ms.
  for (const [at, delay] of [[1_000, 300], [2_000, 20], [3_000, 100]] as const) {
    c.observeAge(900_000 + at - 50, 50, at + delay);
  }
  assert.equal(c.toLocal(900_000 + 5_000), 5_020);
});

test("events tell more than freshness records, whose makers have other clocks", () => {
  const c = new ServerClock();
  c.observeCheck(5_000_000, 1_000);
  assert.equal(c.toLocal(5_000_000), 1_000);
  c.observeAge(900_000, 1_000, 1_000);
  assert.equal(c.toLocal(901_000), 1_000);
});

test("an age of nothing may be a negative one and tells nothing", () => {
  const c = new ServerClock();
  c.observeAge(5_000_000, 0, 1_000);
  assert.equal(c.toLocal(5_000_000), undefined);
});

test("the estimate follows a clock that is set back within two windows", () => {
  const c = new ServerClock();
  c.observeAge(1_000_000, 1, 0);
  for (let t = 1_000; t <= 150_000; t += 1_000) c.observeAge(500_000 + t - 1, 1, t);
  assert.equal(c.toLocal(500_000 + 150_000), 150_000);
});

test("another gateway's first frame replaces the estimate", () => {
  const c = new ServerClock();
  c.observeAge(1_000_000 - 1, 1, 0);
  c.expire();
  assert.equal(c.toLocal(1_000_000), 0);
  c.observeAge(400_000 - 1, 1, 10);
  assert.equal(c.toLocal(400_000), 10);
});
