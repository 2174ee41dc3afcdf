import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { decode } from "../src/frames.ts";

test("an event with everything", () => {
  const f = decode(
    `{"event":{"topic":"host.status","seq":4801,"version":97,"phase":"live","changedAt":"2026-01-02T03:04:05.123456789Z",` +
      `"asOf":"2026-01-02T03:04:06Z","ageMs":12,"stale":true,"reason":"timeout","breaker":"closed","poll":"host.status","upstream":"u","data":{"a":[1,null]}}}`,
  );
  assert.ok(f?.kind === "event");
  assert.equal(f.event.seq, 4801);
  assert.equal(f.event.changedAt, Date.UTC(2026, 0, 2, 3, 4, 5, 123));
  assert.equal(f.event.asOf, Date.UTC(2026, 0, 2, 3, 4, 6));
  assert.deepEqual(f.event.data, { a: [1, null] });
  assert.equal(f.event.reason, "timeout");
});

test("every golden frame of the protocol is read, but those of requests this page never makes", () => {
  const golden = "../../../proto/golden";
  const files = readdirSync(golden).filter((f) => f.startsWith("server_") && f.endsWith(".json"));
  assert.ok(files.length > 10);
  for (const f of files) {
    const [, kind = ""] = f.replace(".json", "").split("_");
    const frame = decode(readFileSync(`${golden}/${f}`, "utf8"));
    assert.equal(frame?.kind, ["unsubscribed", "authenticated"].includes(kind) ? undefined : kind, f);
    if (frame?.kind === "event") assert.ok(frame.event.asOf > 0 && frame.event.changedAt > 0 && frame.event.version > 0, f);
    if (frame?.kind === "fresh") assert.ok(frame.fresh.checkedAt > 0 && frame.fresh.maxAgeMs > 0, f);
  }
});

test("what is absent has its zero value", () => {
  const f = decode(`{"fresh":{"poll":"p.q"}}`);
  assert.ok(f?.kind === "fresh");
  assert.equal(f.fresh.asOf, 0);
  assert.equal(f.fresh.stale, false);
  assert.equal(f.fresh.maxAgeMs, 0);
  const e = decode(`{"event":{"topic":"p.q"}}`);
  assert.ok(e?.kind === "event");
  assert.equal(e.event.poll, "p.q");
  assert.equal(e.event.data, null);
});

test("Go's zero time is no time", () => {
  const f = decode(`{"fresh":{"poll":"p.q","asOf":"0001-01-01T00:00:00Z"}}`);
  assert.ok(f?.kind === "fresh");
  assert.equal(f.fresh.asOf, 0);
});

test("a field of a wrong type is absent", () => {
  const f = decode(`{"fresh":{"poll":"p.q","stale":"yes","maxAgeMs":"6000","reason":7,"asOf":12}}`);
  assert.ok(f?.kind === "fresh");
  assert.deepEqual([f.fresh.stale, f.fresh.maxAgeMs, f.fresh.reason, f.fresh.asOf], [false, 0, "", 0]);
});

test("the other frames", () => {
  for (const [text, kind] of [
    [`{"welcome":{"connection":"c","gateway":"g","epoch":"E","pingIntervalMs":30000}}`, "welcome"],
    [`{"id":1,"subscribed":{"topics":[">"],"seq":4800,"epoch":"E"}}`, "subscribed"],
    [`{"id":3,"pong":{}}`, "pong"],
    [`{"breaker":{"source":"host","from":"closed","to":"open"}}`, "breaker"],
    [`{"id":1,"error":{"code":"unavailable","message":"m","retryable":true}}`, "error"],
    [`{"goaway":{"reason":"draining","reconnectAfterMs":1830}}`, "goaway"],
  ] as const) {
    assert.equal(decode(text)?.kind, kind, text);
  }
});

test("what is no frame, or a frame of the future, is nothing", () => {
  for (const text of ["", "{", "null", "[]", "7", `"event"`, "{}", `{"tomorrow":{}}`, `{"event":null}`, `{"event":{"topic":7}}`, `{"fresh":{}}`]) {
    assert.equal(decode(text), undefined, text);
  }
});

test("integers that a double cannot hold stay exact where the engine allows it", () => {
  const f = decode(`{"event":{"topic":"p.q","data":{"wei":123456789012345678901234567890,"n":12345678.9012345678,"s":"12345678901234567890"}}}`);
  assert.ok(f?.kind === "event");
  let exact = false;
  const reviver = (_k: string, _v: unknown, c?: { source?: string }) => (exact = c?.source !== undefined);
  JSON.parse("1", reviver as (k: string, v: unknown) => unknown);
  const data = f.event.data as Record<string, unknown>;
  assert.equal(data["wei"], exact ? 123456789012345678901234567890n : 123456789012345678901234567890);
  assert.equal(data["n"], 12345678.9012345678);
  assert.equal(data["s"], "12345678901234567890");
});
