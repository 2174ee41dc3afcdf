import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { faultOf, readFaults } from "../src/faults.ts";
import { closeWords, reasonWords, reconnects, sourceOf } from "../src/words.ts";
import { natsCommand } from "../src/view/clipboard.ts";

/** The cells of the tables under a heading of proto/wire.md. */
function rows(heading: string): string[][] {
  const text = readFileSync("../../../proto/wire.md", "utf8");
  const section = text.split(/^## /m).find((s) => s.startsWith(heading));
  assert.ok(section, `proto/wire.md has no section ${heading}`);
  return section
    .split("\n")
    .filter((l) => l.startsWith("| ") && !l.includes("| reason |") && !l.includes("| code |"))
    .map((l) => l.split("|").slice(1, -1).map((c) => c.trim()));
}

test("every reason of the protocol has words", () => {
  const reasons = rows("Reasons").map((r) => r[0] ?? "").filter((r) => r !== "reason");
  assert.ok(reasons.length >= 9);
  const unknown = reasonWords("no such reason").long;
  for (const r of reasons) assert.notEqual(reasonWords(r).long, unknown, r);
});

test("every close code of the protocol has words and is obeyed", () => {
  const codes = rows("Close codes").filter((r) => /^[0-9]+$/.test(r[0] ?? ""));
  assert.ok(codes.length >= 14);
  for (const [code, , reconnect] of codes) {
    assert.equal(reconnects(Number(code)), reconnect === "yes", code);
    assert.doesNotMatch(closeWords(Number(code)), /[0-9]{4}/, code);
  }
});

test("a reason or a code of the future is named as it is", () => {
  assert.equal(reasonWords("out_of_tea").short, "out_of_tea");
  assert.match(closeWords(4242), /4242/);
});

test("a source is the first token", () => {
  assert.equal(sourceOf("host.system.status"), "host");
  assert.equal(sourceOf("host"), "host");
});

test("the command to paste holds a topic and nothing else", () => {
  assert.equal(natsCommand("host.system.status"), "nats sub 'pollcast.live.host.system.status' 'pollcast.live.host.system.status.>'");
  assert.ok(natsCommand("a.b%20c"));
  for (const bad of ["", "a.b'; rm -rf ~ '", "a b", "a.>", "a.\n", "a..b", "é"]) assert.equal(natsCommand(bad), "", bad);
});

test("the demo's switches are read, and not where they are not allowed", () => {
  const answer = {
    allowed: true,
    methods: ["system.status", "*", 7],
    kinds: ["slow", "none"],
    active: [{ method: "system.status", kind: "slow", delayMs: 5 }, null],
  };
  const f = readFaults(answer);
  assert.deepEqual(f, { methods: ["system.status"], kinds: ["slow", "none"], active: [{ method: "system.status", kind: "slow" }] });
  assert.ok(f);
  assert.equal(faultOf(f, "system.status"), "slow");
  assert.equal(faultOf(f, "*"), "none");
  assert.equal(readFaults({ ...answer, allowed: false }), undefined);
  assert.equal(readFaults({ ...answer, kinds: [] }), undefined);
  for (const bad of [null, 7, "x", [], {}]) assert.equal(readFaults(bad), undefined);
});
