import assert from "node:assert/strict";
import { test } from "node:test";
import { ServerClock } from "../src/clock.ts";
import type { Freshness } from "../src/frames.ts";
import { GRACE_MS, judge, Moment, UNSPOKEN_MS, type Evidence } from "../src/freshness.ts";

const record: Freshness = {
  poll: "host.status",
  asOf: 1,
  checkedAt: 1,
  stale: false,
  reason: "",
  detail: "",
  breaker: "closed",
  consecutiveFailures: 0,
  nextProbeAt: 0,
  intervalMs: 2_000,
  maxAgeMs: 6_000,
};

const evidence: Evidence = { connected: true, current: true, record, heardAt: 0, event: undefined };

test("a poll is fresh while its record holds", () => {
  assert.equal(judge(evidence, 6_000 + GRACE_MS).stale, false);
});

test("without a socket nothing is fresh, whatever the records say", () => {
  assert.deepEqual(judge({ ...evidence, connected: false }, 0), { stale: true, reason: "connection_lost", detail: "" });
});

test("a record of an earlier connection does not count on this one", () => {
  assert.equal(judge({ ...evidence, current: false }, 0).reason, "connection_lost");
});

test("a stale record says why", () => {
  const stale = { ...record, stale: true, reason: "timeout", detail: "no answer within 1.6 s" };
  assert.deepEqual(judge({ ...evidence, record: stale }, 0), { stale: true, reason: "timeout", detail: "no answer within 1.6 s" });
});

test("silence beyond maxAge makes a poll stale without any frame", () => {
  assert.equal(judge(evidence, 6_000 + GRACE_MS + 1).reason, "poller_silent");
});

test("a stale poll keeps its reason when it also falls silent", () => {
  const stale = { ...record, stale: true, reason: "breaker_open" };
  assert.equal(judge({ ...evidence, record: stale }, 1e9).reason, "breaker_open");
});

test("an event without a record counts by its own flags, and not for long", () => {
  const alone = { ...evidence, record: undefined };
  assert.equal(judge({ ...alone, event: { stale: true, reason: "timeout" } }, 0).reason, "timeout");
  assert.equal(judge({ ...alone, event: { stale: false, reason: "" } }, UNSPOKEN_MS).stale, false);
  assert.equal(judge({ ...alone, event: { stale: false, reason: "" } }, UNSPOKEN_MS + 1).reason, "poller_silent");
});

test("an age is what the gateway said plus the time since", () => {
  const c = new ServerClock();
  const asOf = 9_000_000;
  c.observeAge(asOf, 1_500, 100);
  const m = Moment.heard(asOf, 100);
  assert.equal(m.age(c, 100), 1_500);
  assert.equal(m.age(c, 2_100), 3_500);
});

test("a wrong browser clock does not change an age", () => {
  for (const skew of [-86_400_000, 0, 86_400_000]) {
    const c = new ServerClock();
    const asOf = 9_000_000_000 + skew;
    c.observeAge(asOf, 1_500, 100);
    assert.equal(Moment.heard(asOf, 100).age(c, 100), 1_500, `skew ${skew}`);
  }
});

test("an age never gets younger by itself, only by a newer moment", () => {
  const c = new ServerClock();
  c.observeAge(1_000_000, 60_000, 0);
  const m = Moment.heard(1_000_000, 0);
  assert.equal(m.age(c, 0), 60_000);
  // The next gateway's clock is a minute behind.
  c.expire();
  c.observeAge(1_000_000, 1, 1_000);
  assert.equal(m.age(c, 1_000), 61_000);
  assert.equal(Moment.newer(m, 1_000_000, 1_000), m, "the same moment");
  assert.equal(Moment.newer(m, 999_000, 1_000), m, "an older moment");
  assert.equal(Moment.newer(m, 1_000_900, 1_000)?.age(c, 1_000), 0, "a newer moment");
});

test("a moment in the future is as old as the news of it", () => {
  const c = new ServerClock();
  c.observeAge(1_000_000, 10, 0);
  const m = Moment.heard(1_000_010 + 3_600_000, 0);
  assert.equal(m.age(c, 0), 0);
  assert.equal(m.age(c, 600_000), 600_000);
});

test("a moment that never was is none", () => {
  assert.equal(Moment.newer(undefined, 0, 5), undefined);
});
