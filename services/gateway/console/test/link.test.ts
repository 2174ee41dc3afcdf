import assert from "node:assert/strict";
import { test } from "node:test";
import type { ServerFrame } from "../src/frames.ts";
import { Link, PING_MS, PONG_MS, type LinkState } from "../src/link.ts";
import { FakeSocket, FakeTime } from "./fakes.ts";

class Rig {
  readonly time = new FakeTime();
  readonly sockets: FakeSocket[] = [];
  readonly states: LinkState[] = [];
  readonly frames: ServerFrame[] = [];
  random = 1;
  explanation = { why: "the gateway cannot be reached", notReady: false };
  readonly link: Link = new Link({
    open: () => {
      const s = new FakeSocket();
      this.sockets.push(s);
      return s;
    },
    timers: this.time,
    random: () => this.random,
    explain: () => Promise.resolve(this.explanation),
    onState: (s) => this.states.push(s),
    onFrame: (f) => this.frames.push(f),
  });

  get socket(): FakeSocket {
    const s = this.sockets.at(-1);
    if (!s) throw new Error("no socket was opened");
    return s;
  }

  get kind(): string {
    return this.link.state.kind;
  }

  /** Connects and subscribes. */
  live(): this {
    if (this.sockets.length === 0) this.link.connect();
    this.socket.open();
    this.socket.receive({ welcome: { gateway: "g", epoch: "E" } });
    this.socket.receive({ id: 1, subscribed: { topics: [">"], seq: 5, epoch: "E" } });
    assert.equal(this.kind, "live");
    return this;
  }

  /** Milliseconds until the next attempt. */
  get pause(): number {
    const s = this.link.state;
    assert.ok(s.kind === "lost", s.kind);
    return s.retryAt - this.time.now();
  }
}

test("it subscribes to everything and is live when that is answered", () => {
  const r = new Rig();
  r.link.connect();
  assert.equal(r.kind, "connecting");
  r.socket.open();
  assert.deepEqual(r.socket.sent, [{ id: 1, subscribe: { topics: [">"] } }]);
  r.socket.receive({ id: 1, subscribed: { topics: [">"], seq: 5, epoch: "E" } });
  assert.equal(r.kind, "live");
  assert.deepEqual(r.frames.map((f) => f.kind), ["subscribed"]);
});

test("a lost socket is lost at once and connected again after a pause", () => {
  const r = new Rig().live();
  r.socket.lose(1006);
  assert.equal(r.kind, "lost");
  const pause = r.pause;
  assert.ok(pause > 0 && pause <= 1_000, String(pause));
  r.time.advance(pause - 1);
  assert.equal(r.sockets.length, 1);
  r.time.advance(1);
  assert.equal(r.sockets.length, 2);
  r.live();
});

test("it says what it has seen, and leaves a gateway that is behind it", () => {
  const r = new Rig().live();
  r.socket.receive({ event: { topic: "a.b", poll: "a.b", seq: 9, version: 1, phase: "live", data: 1 } });
  r.socket.lose(1006);
  r.time.advance(r.pause);
  const behind = r.socket;
  behind.open();
  const subscribe = { topics: [">"], notOlderThan: { seq: 9, epoch: "E" } };
  assert.deepEqual(behind.sent, [{ id: 1, subscribe }]);
  behind.receive({ id: 1, error: { code: "unavailable", message: "not so far", retryable: true } });
  assert.equal(r.kind, "waiting");
  r.time.advance(2_000);
  assert.deepEqual(behind.sent[1], { id: 2, subscribe });
  behind.receive({ id: 2, error: { code: "unavailable", message: "not so far", retryable: true } });
  r.time.advance(r.pause);
  assert.equal(r.sockets.length, 3);
  r.socket.open();
  assert.deepEqual(r.socket.sent, [{ id: 1, subscribe }]);
  // The stream was set back: what was seen is no measure any more.
  r.socket.receive({ id: 1, subscribed: { topics: [">"], seq: 3, epoch: "E" } });
  r.socket.lose(1006);
  r.time.advance(r.pause);
  r.socket.open();
  assert.deepEqual(r.socket.sent, [{ id: 1, subscribe: { topics: [">"], notOlderThan: { seq: 3, epoch: "E" } } }]);
});

test("pauses grow to a limit, with jitter, and start anew after a good connection", () => {
  const r = new Rig();
  r.link.connect();
  const pauses: number[] = [];
  for (let i = 0; i < 8; i++) {
    r.socket.lose(1006);
    pauses.push(r.pause);
    r.time.advance(r.pause);
  }
  assert.deepEqual(pauses, [1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000, 10_000]);
  r.random = 0;
  r.socket.lose(1006);
  assert.equal(r.pause, 5_000);
  r.time.advance(5_000);
  r.live();
  r.time.advance(11_000);
  r.socket.lose(1001);
  assert.equal(r.pause, 250);
});

test("a gateway that drops every connection is not hammered", () => {
  const r = new Rig();
  for (let i = 0; i < 6; i++) {
    if (i > 0) r.time.advance(r.pause);
    r.live();
    r.socket.lose(1006);
  }
  assert.equal(r.pause, 10_000);
});

test("close codes that say that it makes no sense are obeyed", async () => {
  for (const code of [1002, 1007, 1009, 4500, 4501, 4502, 4503, 4999]) {
    const r = new Rig().live();
    r.socket.lose(code);
    assert.equal(r.kind, "refused", String(code));
    assert.equal(r.time.pending, 0, "nothing is planned");
    // A person may still try.
    r.link.connect();
    assert.equal(r.sockets.length, 2);
  }
  for (const code of [1000, 1001, 1005, 1006, 1012, 1013, 4001, 4002, 4003, 4499]) {
    const r = new Rig().live();
    r.socket.lose(code);
    assert.equal(r.kind, "lost", String(code));
  }
});

test("a full gateway is left alone for longer", () => {
  const r = new Rig().live();
  r.socket.lose(1013);
  assert.equal(r.pause, 15_000);
});

test("goaway: it stays for as long as it may, then comes back", () => {
  const r = new Rig().live();
  r.socket.receive({ goaway: { reason: "draining", reconnectAfterMs: 1_830 } });
  assert.equal(r.kind, "live");
  r.time.advance(1_829);
  assert.equal(r.sockets.length, 1);
  r.time.advance(1);
  assert.equal(r.sockets.length, 2);
  assert.ok(r.sockets[0]?.closed);
});

test("after goaway on a good connection, pauses start anew", () => {
  const r = new Rig();
  r.link.connect();
  for (let i = 0; i < 5; i++) {
    r.socket.lose(1006);
    r.time.advance(r.pause);
  }
  r.live();
  r.time.advance(11_000);
  r.socket.receive({ goaway: { reason: "draining", reconnectAfterMs: 100 } });
  r.time.advance(100);
  r.socket.lose(1006);
  assert.equal(r.pause, 1_000);
});

test("goaway, closed earlier: it comes back when it was asked to", () => {
  const r = new Rig().live();
  r.socket.receive({ goaway: { reason: "draining", reconnectAfterMs: 5_000 } });
  r.time.advance(2_000);
  r.socket.lose(1012);
  assert.equal(r.pause, 3_000);
});

test("it pings, and a gateway that does not answer is lost", () => {
  const r = new Rig().live();
  r.time.advance(PING_MS);
  assert.deepEqual(r.socket.sent.at(-1), { id: 2, ping: {} });
  r.time.advance(PONG_MS - 1);
  assert.equal(r.kind, "live");
  r.time.advance(1);
  assert.equal(r.kind, "lost");
  assert.ok(r.socket.closed);
});

test("a gateway that answers stays", () => {
  const r = new Rig().live();
  for (let i = 0; i < 20; i++) {
    r.time.advance(PING_MS);
    r.socket.receive({ id: i + 2, pong: {} });
  }
  assert.equal(r.kind, "live");
  assert.equal(r.socket.sent.filter((f) => "ping" in f).length, 20);
});

test("any frame shows that the gateway is there", () => {
  const r = new Rig().live();
  r.time.advance(PING_MS);
  r.socket.receive({ fresh: { poll: "a.b" } });
  r.time.advance(PONG_MS);
  assert.equal(r.kind, "live");
});

test("check asks at once", () => {
  const r = new Rig().live();
  r.link.check();
  assert.ok("ping" in (r.socket.sent.at(-1) ?? {}));
  r.time.advance(PONG_MS);
  assert.equal(r.kind, "lost");
});

test("a socket that neither opens nor fails is given up", () => {
  const r = new Rig();
  r.link.connect();
  r.time.advance(10_000);
  assert.equal(r.kind, "lost");
});

test("a gateway that says nothing after the upgrade is given up", () => {
  const r = new Rig();
  r.link.connect();
  r.socket.open();
  r.time.advance(10_000);
  assert.equal(r.kind, "lost");
});

test("an upgrade that is refused is explained", async () => {
  const r = new Rig();
  r.explanation = { why: "not now: the stream has not been read yet", notReady: true };
  r.link.connect();
  r.socket.lose(1006);
  assert.equal(r.kind, "lost");
  await Promise.resolve();
  await Promise.resolve();
  assert.ok(r.link.state.kind === "lost");
  assert.equal(r.link.state.why, "not now: the stream has not been read yet");
  assert.equal(r.link.state.notReady, true);
  assert.ok(r.pause > 0, "and the next attempt stands");
});

test("an explanation that comes late explains nothing", async () => {
  const r = new Rig();
  r.link.connect();
  r.socket.lose(1006);
  r.link.connect();
  await Promise.resolve();
  await Promise.resolve();
  assert.equal(r.kind, "connecting");
});

test("a gateway that is not ready is asked again on the same connection", () => {
  const r = new Rig();
  r.link.connect();
  r.socket.open();
  r.socket.receive({ id: 1, error: { code: "unavailable", message: "no stream yet", retryable: true } });
  assert.deepEqual(r.link.state, { kind: "waiting", why: "no stream yet" });
  r.time.advance(2_000);
  assert.deepEqual(r.socket.sent.at(-1), { id: 2, subscribe: { topics: [">"] } });
  r.socket.receive({ id: 2, subscribed: { topics: [">"], seq: 5, epoch: "E" } });
  assert.equal(r.kind, "live");
  assert.equal(r.sockets.length, 1);
});

test("a subscription that is refused for good is not tried again", () => {
  const r = new Rig();
  r.link.connect();
  r.socket.open();
  r.socket.receive({ id: 1, error: { code: "forbidden", message: "not for you", retryable: false } });
  assert.deepEqual(r.link.state, { kind: "refused", why: "not for you" });
  assert.ok(r.socket.closed);
  assert.equal(r.time.pending, 0);
});

test("an error about something else changes nothing", () => {
  const r = new Rig().live();
  r.socket.receive({ id: 9, error: { code: "rate_limited", message: "slow down", retryable: true } });
  assert.equal(r.kind, "live");
});

test("garbage and frames of the future are ignored", () => {
  const r = new Rig().live();
  const before = r.frames.length;
  for (const junk of ["", "{", "[1]", `{"tomorrow":{}}`]) r.socket.receive(junk);
  assert.equal(r.kind, "live");
  assert.equal(r.frames.length, before);
});

test("nothing is heard from a socket that was let go", () => {
  const r = new Rig().live();
  const old = r.socket;
  r.time.advance(PING_MS + PONG_MS);
  assert.equal(r.kind, "lost");
  const { length } = r.frames;
  old.receive({ fresh: { poll: "a.b" } });
  old.lose(4500);
  assert.equal(r.frames.length, length);
  assert.equal(r.kind, "lost");
});

test("connect on a connection does nothing", () => {
  const r = new Rig().live();
  r.link.connect();
  assert.equal(r.sockets.length, 1);
});
