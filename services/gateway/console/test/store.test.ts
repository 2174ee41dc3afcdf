import assert from "node:assert/strict";
import { test } from "node:test";
import { LIMITS } from "../src/store.ts";
import { Bench } from "./fakes.ts";

function live(): Bench {
  const b = new Bench();
  b.connect();
  b.event("host.status", { cpu: 1 }, { phase: "snapshot" });
  b.fresh("host.status");
  return b;
}

test("a poll that is spoken for is fresh", () => {
  const b = live();
  assert.equal(b.poll("host.status").verdict.stale, false);
  assert.deepEqual(b.store.counts(), { fresh: 1, stale: 0, dropped: 0 });
});

test("a record without any value makes a poll that was never confirmed", () => {
  const b = live();
  b.fresh("new.poll", { asOf: 0, stale: true, reason: "upstream_error" });
  assert.equal(b.poll("new.poll").confirmed, undefined);
  assert.equal(b.poll("new.poll").verdict.reason, "upstream_error");
});

test("when the socket is lost everything is stale at once", () => {
  const b = live();
  b.fresh("eth.head");
  b.changed.length = 0;
  b.store.end();
  assert.deepEqual(b.store.counts(), { fresh: 0, stale: 2, dropped: 0 });
  assert.equal(b.poll("host.status").verdict.reason, "connection_lost");
  assert.deepEqual(b.changed, ["host.status", "eth.head"], "and every card is told");
  assert.deepEqual(b.poll("host.status").topics.get("host.status")?.event.data, { cpu: 1 }, "the last value stays");
});

test("after a reconnect a poll is stale until the gateway speaks of it", () => {
  const b = live();
  b.fresh("eth.head");
  b.store.end();
  b.connect();
  assert.equal(b.store.counts().fresh, 0);
  b.fresh("eth.head");
  assert.equal(b.poll("eth.head").verdict.stale, false);
  assert.equal(b.poll("host.status").verdict.reason, "connection_lost");
});

test("after a reconnect an old record does not speak for a new event", () => {
  const b = live();
  b.store.end();
  b.connect();
  b.event("host.status", { cpu: 1 }, { phase: "snapshot", stale: true, reason: "bus_disconnected" });
  assert.equal(b.poll("host.status").verdict.reason, "bus_disconnected");
});

test("silence makes a poll stale by the page's own clock", () => {
  const b = live();
  b.pass(7_000);
  assert.equal(b.poll("host.status").verdict.stale, false);
  b.pass(500);
  assert.equal(b.poll("host.status").verdict.reason, "poller_silent");
  b.fresh("host.status");
  assert.equal(b.poll("host.status").verdict.stale, false);
});

test("a record renews the age of a value that did not change", () => {
  const b = live();
  b.pass(4_000);
  const p = b.poll("host.status");
  assert.ok(p.confirmed);
  assert.equal(b.store.age(p.confirmed), 4_010);
  b.fresh("host.status", { asOf: b.server - 30 });
  assert.equal(b.store.age(p.confirmed), 30);
  b.fresh("host.status", { asOf: b.server - 9_000, stale: true, reason: "timeout" });
  assert.equal(b.store.age(p.confirmed), 30, "an older asOf takes nothing back");
});

test("while stale, the age goes on growing", () => {
  const b = live();
  const p = b.poll("host.status");
  const asOf = b.server;
  for (let i = 0; i < 5; i++) {
    b.pass(2_000);
    b.fresh("host.status", { asOf, stale: true, reason: "timeout" });
  }
  assert.ok(p.confirmed);
  assert.equal(b.store.age(p.confirmed), 10_000);
});

test("a snapshot of what is known is no new point", () => {
  const b = live();
  b.event("host.status", { cpu: 5 });
  const t = b.poll("host.status").topics.get("host.status");
  const again = { ...t?.event, phase: "snapshot" };
  assert.equal(t?.series?.shown[0]?.points.length, 2);
  b.store.end();
  b.connect();
  b.store.event(again as never);
  assert.equal(t?.series?.shown[0]?.points.length, 2);
  b.event("host.status", { cpu: 6 });
  assert.equal(t?.series?.shown[0]?.points.length, 3);
});

test("stale stretches are kept for the lines", () => {
  const b = live();
  b.pass(1_000);
  const from = b.time.now();
  b.fresh("host.status", { stale: true, reason: "timeout" });
  b.fresh("host.status", { stale: true, reason: "breaker_open" });
  b.pass(3_000);
  b.fresh("host.status");
  assert.deepEqual(b.poll("host.status").spans, [{ from, to: from + 3_000 }]);
});

test("keys that went while the page was away are forgotten, others stay", () => {
  const b = live();
  for (const k of ["a", "b"]) b.event(`net.if.${k}`, 1, { poll: "net.if", key: k });
  b.fresh("net.if");
  b.store.end();
  b.connect();
  b.event("net.if.a", 1, { poll: "net.if", key: "a", phase: "snapshot" });
  b.fresh("net.if");
  const p = b.poll("net.if");
  const gone = p.topics.get("net.if.b");
  assert.ok(gone && !b.store.isCurrent(gone), "known to be of the last connection");
  b.time.advance(10_000);
  b.store.judgeAll();
  assert.deepEqual([...p.topics.keys()], ["net.if.a"]);
  assert.deepEqual(b.removed, ["host.status"], "a poll that is not named is gone as well");
  assert.ok(b.log.some((e) => e.subject === "host.status" && e.text === "gone"));
});

test("a long snapshot is waited for", () => {
  const b = live();
  b.fresh("eth.head");
  b.store.end();
  b.connect();
  for (let i = 0; i < 8; i++) {
    b.pass(4_000);
    b.event(`net.if.k${i}`, 1, { poll: "net.if", phase: "snapshot" });
  }
  assert.deepEqual(b.removed, []);
});

test("a deleted key goes", () => {
  const b = live();
  b.event("net.if.a", 1, { poll: "net.if", key: "a" });
  b.event("net.if.a", null, { poll: "net.if", key: "a", deleted: true });
  assert.equal(b.poll("net.if").topics.size, 0);
});

test("more topics and polls than the page keeps are counted, not kept", () => {
  const b = new Bench();
  b.connect();
  for (let i = 0; i < LIMITS.topics + 7; i++) b.event(`big.poll.k${i}`, i, { poll: "big.poll", key: `k${i}` });
  assert.equal(b.poll("big.poll").topics.size, LIMITS.topics);
  assert.equal(b.store.counts().dropped, 7);
  for (let i = 0; i < LIMITS.polls + 3; i++) b.fresh(`p${i}.q`);
  assert.equal(b.store.polls.size, LIMITS.polls);
  // A key that goes makes room for another.
  b.event("big.poll.k1", null, { poll: "big.poll", deleted: true });
  b.event("big.poll.new", 1, { poll: "big.poll" });
  assert.ok(b.poll("big.poll").topics.has("big.poll.new"));
});

test("values that are too large are not kept, one by one or together", () => {
  const b = live();
  b.event("big.one", "x", { size: LIMITS.value + 1 });
  const one = b.poll("big.one").topics.get("big.one");
  assert.deepEqual([one?.kept, one?.event.data], [false, null]);
  for (let i = 0; i < 200; i++) b.event(`big.k${i}`, "x", { size: LIMITS.value });
  const kept = [...b.store.polls.values()].flatMap((p) => [...p.topics.values()]).filter((t) => t.kept);
  const total = kept.reduce((sum, t) => sum + t.event.size, 0);
  assert.ok(total <= LIMITS.values, String(total));
  // Room that becomes free is used again.
  for (let i = 0; i < 200; i++) b.event(`big.k${i}`, "x", { size: 10 });
  assert.ok([...b.store.polls.values()].every((p) => [...p.topics.values()].every((t) => t.kept || t.name === "big.one")));
});

test("the log tells changes, not what was so from the start, and not what the connection took", () => {
  const b = live();
  assert.equal(b.log.length, 0);
  b.fresh("host.status", { stale: true, reason: "timeout" });
  b.fresh("host.status", { stale: true, reason: "timeout", detail: "again" });
  b.fresh("host.status", { stale: true, reason: "breaker_open" });
  b.store.end();
  b.connect();
  b.fresh("host.status", { stale: true, reason: "breaker_open" });
  b.fresh("host.status");
  assert.deepEqual(b.log.map((e) => [e.kind, e.text]), [
    ["stale", "timeout"],
    ["stale", "breaker open"],
    ["fresh", "fresh again"],
  ]);
});

test("breaker transitions are logged", () => {
  const b = live();
  const t = { source: "host", upstream: "http://u", from: "closed", to: "open", cause: "timeout", failures: 3, nextProbeAt: 0 };
  b.store.transition(t);
  b.store.transition({ ...t, from: "open", to: "half_open", cause: "probe" });
  assert.deepEqual(b.log.map((e) => e.text), ["closed → open: timeout", "open → half-open: probe"]);
});

test("the next probe is counted on the gateway's clock", () => {
  const b = live();
  assert.equal(b.store.until(b.server + 272_000), 272_000);
});
