import { LocalClock, ServerClock } from "./clock.ts";
import { FaultsApi } from "./faults.ts";
import type { ServerFrame } from "./frames.ts";
import { Link, SUBPROTOCOL, type Explanation, type LinkState } from "./link.ts";
import { Store } from "./store.ts";
import { BreakPanel } from "./view/break-panel.ts";
import { byId } from "./view/dom.ts";
import { Grid } from "./view/grid.ts";
import { LogView } from "./view/log-view.ts";
import { StatusView } from "./view/status.ts";

/** Between two looks at the clock, in milliseconds: an age is never a second late. */
const TICK_MS = 500;

/** Between two looks at the demo's switches, which others may move too. */
const FAULTS_MS = 15_000;

// socket -> link -> store -> grid: frames walk down, nothing walks back.

const clock = new LocalClock();
const log = new LogView(byId("log"), byId("log-empty"));
const store: Store = new Store(clock, new ServerClock(), {
  changed: (poll) => grid.changed(poll),
  removed: (poll) => grid.removed(poll),
  log: (entry) => log.add(entry),
});
const status = new StatusView(store, () => link.connect());
const grid: Grid = new Grid(byId("polls"), store, () => status.counts(link.state, grid.matching));
const panel = new BreakPanel(byId("break"), byId("break-body"), new FaultsApi(String(new URL("demo/faults", document.baseURI))));

const link: Link = new Link({
  open: () => new WebSocket(socketUrl(), SUBPROTOCOL),
  timers: {
    now: () => clock.now(),
    after: (ms, f) => {
      const timer = setTimeout(f, ms);
      return () => clearTimeout(timer);
    },
  },
  random: Math.random,
  explain,
  onState,
  onFrame,
});

/** What the log last said of the connection; undefined when it must say it again. */
let told: LinkState["kind"] | undefined;

function onState(state: LinkState): void {
  if (state.kind !== "live") store.end();
  // Connecting is said by nobody: it follows goaway, or a loss.
  if (state.kind !== told && state.kind !== "connecting") {
    told = state.kind;
    store.say("connection", "connection", "why" in state && state.why ? `${state.kind}: ${state.why}` : state.kind);
  }
  status.link(state);
  if (state.kind === "live") void panel.refresh();
  grid.request();
}

function onFrame(frame: ServerFrame): void {
  switch (frame.kind) {
    case "welcome":
      store.gateway = frame.welcome.gateway;
      break;
    case "subscribed":
      store.begin(frame.subscribed.epoch, frame.subscribed.seq);
      break;
    case "event":
      store.event(frame.event);
      break;
    case "fresh":
      store.fresh(frame.fresh);
      break;
    case "breaker":
      store.transition(frame.breaker);
      break;
    case "goaway":
      told = undefined;
      store.say("connection", "connection", `${frame.goaway.reason || "goaway"}: the gateway asks to connect again`);
      break;
    case "error":
      store.say("connection", "connection", `${frame.error.code}: ${frame.error.message}`);
      break;
  }
  grid.request();
}

/** The gateway's WebSocket, beside this page. */
function socketUrl(): string {
  const url = new URL("v1/ws", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return String(url);
}

/** Why a socket did not open: a plain request shows what the browser does not. */
async function explain(): Promise<Explanation> {
  try {
    const answer = await fetch(new URL("v1/topics", document.baseURI), { cache: "no-store" });
    if (answer.ok) {
      return { why: "the gateway answers, but no WebSocket opens: a proxy between may not pass it on", notReady: false };
    }
    const text = (await answer.text()).trim().slice(0, 200);
    if (answer.status === 503) return { why: text || "the gateway is not ready", notReady: true };
    return { why: `the gateway refused the connection with HTTP ${answer.status}${text ? `: ${text}` : ""}`, notReady: false };
  } catch {
    return { why: "the gateway cannot be reached", notReady: false };
  }
}

function filter(): void {
  grid.filter((byId("query") as HTMLInputElement).value, (byId("only-stale") as HTMLInputElement).checked);
}

function tick(): void {
  store.judgeAll();
  grid.tick();
  status.tick(link.state);
}

byId("query").addEventListener("input", filter);
byId("only-stale").addEventListener("change", filter);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  // Timers are slow in a hidden tab: look at the clock and at the socket first.
  tick();
  link.check();
});
window.addEventListener("online", () => link.connect());
window.addEventListener("offline", () => link.check());

// On a narrow screen the polls come first.
if (matchMedia("(max-width: 70rem)").matches) {
  for (const d of document.querySelectorAll("details")) d.open = false;
}

filter();
link.connect();
setInterval(tick, TICK_MS);
void panel.refresh();
setInterval(() => {
  if (!document.hidden && link.state.kind === "live") void panel.refresh();
}, FAULTS_MS);
