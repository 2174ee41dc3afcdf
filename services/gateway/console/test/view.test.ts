import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { beforeEach, test } from "node:test";
import { Window } from "happy-dom";
import { Card } from "../src/view/card.ts";
import { LogView } from "../src/view/log-view.ts";
import { StatusView } from "../src/view/status.ts";
import { Tree } from "../src/view/tree.ts";
import { Bench } from "./fakes.ts";

// A document without a browser; what a browser alone can show (layout, colours,
// the policy) is not tested here.
let window: Window;

beforeEach(() => {
  window = new Window();
  Object.assign(globalThis, { window, document: window.document, Element: window.Element, HTMLElement: window.HTMLElement });
});

const EVIL = `<img src=x onerror="alert(1)">`;

function card(b: Bench, poll: string): Card {
  const c = new Card(b.poll(poll), b.store);
  c.judge();
  c.update();
  document.body.append(c.root);
  return c;
}

function plain(e: Element | null): string {
  return (e?.textContent ?? "").replaceAll("\u00a0", " ");
}

test("whatever an upstream, a poller or a gateway sends, it is text", () => {
  const b = new Bench();
  b.connect();
  const data = { html: EVIL, [EVIL]: "key", list: [EVIL], rows: [{ [EVIL]: EVIL }], nested: { [EVIL]: { x: EVIL } } };
  b.event(`evil.${EVIL}`, data, { upstream: EVIL, reason: EVIL, breaker: EVIL });
  b.fresh(`evil.${EVIL}`, { stale: true, reason: EVIL, detail: EVIL, breaker: EVIL });
  b.event(`evil.keys.${EVIL}`, { [EVIL]: EVIL }, { poll: "evil.keys", key: EVIL });
  card(b, `evil.${EVIL}`);
  card(b, "evil.keys");
  const list = document.createElement("ol");
  document.body.append(list);
  new LogView(list, document.createElement("p")).add({ wall: 0, kind: "breaker", subject: EVIL, text: EVIL, detail: EVIL });

  assert.equal(document.querySelectorAll("img, script, iframe").length, 0);
  assert.ok(document.body.textContent?.includes(EVIL), "and it is there to be read");
  for (const e of document.querySelectorAll("*")) {
    for (const name of e.getAttributeNames()) assert.doesNotMatch(name, /^on/, e.outerHTML);
  }
});

test("no source makes elements from text", () => {
  const files = readdirSync("src", { recursive: true, encoding: "utf8" }).filter((f) => f.endsWith(".ts"));
  assert.ok(files.length > 20);
  for (const f of files) {
    const bad = /innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|setHTML|eval\(|new Function/;
    assert.doesNotMatch(readFileSync(`src/${f}`, "utf8"), bad, f);
  }
});

test("a fresh card", () => {
  const b = new Bench();
  b.connect();
  b.event("host.status", { cpu: 1 });
  b.fresh("host.status");
  const { root } = card(b, "host.status");
  assert.equal(root.dataset["state"], "fresh");
  assert.equal(plain(root.querySelector(".badge")), "fresh");
  assert.equal(plain(root.querySelector(".ages")), "confirmed just nowchanged just now");
  assert.equal(plain(root.querySelector(".pill")), "breaker closed");
  assert.equal(root.querySelector<HTMLElement>(".reason")?.hidden, true);
  assert.equal(plain(root.querySelector(".row.leaf")), "cpu1");
});

test("a stale card says so, why, since when, and when the next probe comes", () => {
  const b = new Bench();
  b.connect();
  b.event("host.status", { cpu: 1 });
  b.fresh("host.status", {
    stale: true,
    reason: "breaker_open",
    detail: "connection refused",
    breaker: "open",
    consecutiveFailures: 5,
    nextProbeAt: b.server + 272_000,
  });
  const c = card(b, "host.status");
  const { root } = c;
  assert.equal(root.dataset["state"], "stale");
  assert.equal(plain(root.querySelector(".badge")), "STALE · breaker open");
  assert.equal(plain(root.querySelector(".detail")), "connection refused");
  assert.equal(plain(root.querySelector(".facts")), "breaker opennext probe in 4:325 failures in a rowevery 2 s");
  b.time.advance(65_000);
  c.tick();
  assert.match(plain(root.querySelector(".ages")), /^last confirmed 1 min 5 s ago/);
  assert.equal(plain(root.querySelector(".probe")), "next probe in 3:27");
  assert.equal(plain(root.querySelector(".row.leaf")), "cpu1", "the last value stays");
  b.time.advance(210_000);
  c.tick();
  assert.equal(plain(root.querySelector(".probe")), "probing now");
});

test("failures of the poll are counted", () => {
  const b = new Bench();
  b.connect();
  b.fresh("host.status", { stale: true, reason: "timeout", consecutiveFailures: 3 });
  assert.equal(plain(card(b, "host.status").root.querySelector(".failures")), "3 failures in a row");
});

test("lines are named by what they are, and stale ones are hatched", () => {
  const b = new Bench();
  b.connect();
  const list = (n: number) => ({ cpu: n % 2, interfaces: [{ name: "lo", rxBytesPerSecond: 2048 * (2 - (n % 2)) }] });
  for (let i = 0; i < 4; i++) {
    b.event("host.status", list(i));
    b.fresh("host.status");
    b.pass(2_000);
  }
  const c = card(b, "host.status");
  const figures = () => [...c.root.querySelectorAll("figure")].map((f) => plain(f));
  assert.deepEqual(figures(), ["cpu1", "lo rxBytesPerSecond2 KiB/s"]);
  assert.equal(c.root.querySelectorAll(".spark-stale").length, 0);
  b.fresh("host.status", { stale: true, reason: "timeout" });
  b.pass(2_000);
  c.draw();
  assert.equal(c.root.querySelectorAll(".spark-stale").length, 2);
  b.event("host.status", { cpu: 0, interfaces: [] });
  c.update();
  assert.deepEqual(figures(), ["cpu0"], "a number that is gone has no line");
});

test("a lost connection shows on the card at once", () => {
  const b = new Bench();
  b.connect();
  b.event("host.status", { cpu: 1 });
  b.fresh("host.status");
  const c = card(b, "host.status");
  b.store.end();
  c.judge();
  assert.equal(plain(c.root.querySelector(".badge")), "STALE · connection lost");
});

test("a poll without a value says so", () => {
  const b = new Bench();
  b.connect();
  b.fresh("new.poll", { asOf: 0, stale: true, reason: "upstream_error" });
  const { root } = card(b, "new.poll");
  assert.equal(plain(root.querySelector(".ages")), "never confirmed");
  assert.equal(root.querySelector<HTMLElement>(".empty")?.hidden, false);
});

test("many keys are a table of few lines, in order, with more on demand", () => {
  const b = new Bench();
  b.connect();
  for (let i = 140; i > 0; i--) b.event(`shop.orders.o-${i}`, { state: "open", total: i }, { poll: "shop.orders", key: `o-${i}` });
  b.fresh("shop.orders");
  const { root } = card(b, "shop.orders");
  const keys = () => [...root.querySelectorAll("tbody tr")].map((tr) => tr.firstElementChild?.textContent);
  assert.equal(keys().length, 50);
  assert.deepEqual(keys().slice(0, 3), ["o-1", "o-2", "o-3"]);
  const more = root.querySelector<HTMLButtonElement>(".keys button");
  assert.equal(more?.textContent, "Show more (90)");
  more?.click();
  assert.equal(keys().length, 140);
  assert.equal(plain(root.querySelector(".origin")), "140 keys");
});

test("values are patched in place: elements stay, so a selection does", () => {
  const tree = new Tree();
  tree.update({ a: 1, b: "x", c: { d: 2 } });
  const before = [...tree.root.querySelectorAll(".row")];
  tree.update({ a: 2, b: "x", c: { d: 3 } });
  const after = [...tree.root.querySelectorAll(".row")];
  assert.deepEqual(after.map((e) => plain(e)), ["a2", "bx", "c", "d3"]);
  assert.ok(after.every((e, i) => e === before[i]));
  tree.update([{ a: 1 }]);
  assert.deepEqual([...tree.root.querySelectorAll(".row")].length, 1);
  tree.update("gone");
  assert.deepEqual([...tree.root.querySelectorAll(".row")].map((e) => plain(e)), ["valuegone"]);
});

test("a large value is closed at first and opens on demand", () => {
  const tree = new Tree();
  tree.update(Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`k${i}`, i])));
  const button = tree.root.querySelector("button");
  assert.equal(tree.root.querySelectorAll(".row").length, 8);
  assert.equal(button?.textContent, "Show all (22 more)");
  assert.equal(button?.getAttribute("aria-expanded"), "false");
  button?.click();
  assert.equal(tree.root.querySelectorAll(".row").length, 30);
  assert.equal(button?.getAttribute("aria-expanded"), "true");
  button?.click();
  assert.equal(tree.root.querySelectorAll(".row").length, 8);
});

test("the log keeps its last lines, newest first", () => {
  const list = document.createElement("ol");
  const log = new LogView(list, document.createElement("p"));
  for (let i = 0; i < 70; i++) log.add({ wall: i * 3000, kind: "fresh", subject: `p${i}`, text: "fresh again", detail: "" });
  assert.equal(list.childElementCount, 50);
  assert.match(plain(list.firstElementChild), /p69/);
});

test("the log says of many in one line what happens to all of them", () => {
  const list = document.createElement("ol");
  const log = new LogView(list, document.createElement("p"));
  const say = (wall: number, subject: string, text: string) => log.add({ wall, kind: "stale", subject, text, detail: "" });
  for (let i = 0; i < 40; i++) {
    say(i, `a.p${i}`, "gateway lost NATS");
    say(i, `b.p${i}`, "poller silent");
  }
  assert.equal(list.childElementCount, 2);
  assert.match(plain(list.lastElementChild), /a\.p0 and 39 more.*gateway lost NATS/);
  assert.match(list.lastElementChild?.getAttribute("title") ?? "", /a\.p0\na\.p1\n.*and 10 more$/s);
  say(100, "a.p0", "gateway lost NATS");
  assert.equal(list.childElementCount, 3, "the same poll again is news");
  say(9_000, "a.p1", "gateway lost NATS");
  assert.equal(list.childElementCount, 4, "later is another time");
  const breaker = (subject: string) => log.add({ wall: 9_000, kind: "breaker", subject, text: "closed → open", detail: subject });
  breaker("a");
  breaker("b");
  assert.equal(list.childElementCount, 6);
});

test("nothing is called live that is not", () => {
  document.body.innerHTML = readFileSync("src/index.html", "utf8").replace(/^[\s\S]*<body>|<\/body>[\s\S]*$/g, "");
  const b = new Bench();
  const view = new StatusView(b.store, () => {});
  const look = () => {
    view.counts({ kind: "live" }, 2);
    const chip = document.getElementById("link");
    return [plain(document.getElementById("link-text")), chip?.dataset["state"], plain(document.getElementById("banner-text"))];
  };
  b.connect();
  view.link({ kind: "live" });
  assert.deepEqual(look(), ["Live", "live", ""]);
  b.fresh("host.status");
  b.fresh("host.disk", { stale: true, reason: "timeout" });
  assert.deepEqual(look(), ["Live", "live", ""]);
  b.fresh("host.status", { stale: true, reason: "breaker_open" });
  assert.deepEqual(look(), ["Connected", "stale", ""]);
  b.fresh("host.status", { stale: true, reason: "bus_disconnected" });
  b.fresh("host.disk", { stale: true, reason: "bus_disconnected" });
  assert.deepEqual(look(), ["Gateway lost NATS", "lost", "The gateway has lost NATS. The last values stay; all of them are stale."]);
  assert.equal(document.getElementById("retry")?.hidden, true);
  b.fresh("host.status");
  assert.deepEqual(look(), ["Live", "live", ""]);
});
