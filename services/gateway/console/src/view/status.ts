import { countdown } from "../format.ts";
import type { LinkState } from "../link.ts";
import type { Store } from "../store.ts";
import { byId, setAttr, setData, setText, show } from "./dom.ts";

/** How often a screen reader is told of the counts at most, in milliseconds. */
const ANNOUNCE_MS = 5_000;

const NOT_READY: [string, string] = [
  "The gateway is waiting for the stream",
  "It is up, but cannot read the stream from NATS yet. The page goes on by itself.",
];

/** The header, the banner under it, and what stands where no cards are. */
export class StatusView {
  private readonly chip = byId("link");
  private readonly chipText = byId("link-text");
  private readonly countdown = byId("link-countdown");
  private readonly banner = byId("banner");
  private readonly bannerText = byId("banner-text");
  private readonly retry = byId("retry");
  private readonly announcer = byId("announcer");
  private announcedAt = -Infinity;
  private announced = "";
  private everLive = false;
  /** What is live is the connection; this is about what comes over it. */
  private worth: "live" | "stale" | "cut" = "live";

  constructor(
    private readonly store: Store,
    onRetry: () => void,
  ) {
    this.retry.addEventListener("click", onRetry);
  }

  /** Writes the state of the connection. */
  link(state: LinkState): void {
    if (state.kind === "live") this.everLive = true;
    const look = this.look(state);
    setData(this.chip, "state", look);
    setText(this.chipText, this.chipWords(state));
    const banner = this.bannerWords(state);
    setText(this.bannerText, banner);
    show(this.banner, banner !== "");
    setData(this.banner, "state", look);
    show(this.retry, state.kind === "lost" || state.kind === "refused");
    this.tick(state);
  }

  private look(state: LinkState): string {
    if (state.kind === "live" && this.worth !== "live") return this.worth === "cut" ? "lost" : "stale";
    return state.kind === "lost" && state.notReady ? "waiting" : state.kind;
  }

  /** Writes what time changes. */
  tick(state: LinkState): void {
    const left = state.kind === "lost" ? state.retryAt - this.store.now() : 0;
    setText(this.countdown, left > 0 ? ` next attempt in ${countdown(left)}` : "");
  }

  /** Writes the counts; matching is the number of cards that are shown. */
  counts(state: LinkState, matching: number): void {
    const { fresh, stale, dropped } = this.store.counts();
    const worth = this.store.busLost() ? "cut" : stale > 0 && fresh === 0 ? "stale" : "live";
    if (worth !== this.worth) {
      this.worth = worth;
      this.link(state);
    }
    setText(byId("fresh-count"), String(fresh));
    setText(byId("stale-count"), String(stale));
    setData(byId("stale"), "any", String(stale > 0));
    setData(byId("fresh"), "any", String(fresh > 0));
    document.title = stale > 0 ? `(${stale} stale) Pollcast` : "Pollcast";
    setText(byId("gateway"), this.store.gateway);
    show(byId("gateway-fact"), this.store.gateway !== "");
    setText(byId("position"), this.store.epoch ? `${this.store.epoch}:${this.store.seq}` : "");
    show(byId("position-fact"), this.store.epoch !== "");
    setText(byId("dropped"), dropped > 0 ? `${dropped.toLocaleString("en")} more topics or polls are not shown: this page keeps 5,000 topics of 500 polls.` : "");
    show(byId("dropped"), dropped > 0);
    this.empty(state, fresh + stale, matching);
    this.announce(fresh, stale);
  }

  private empty(state: LinkState, polls: number, matching: number): void {
    let title = "";
    let text = "";
    if (polls === 0) [title, text] = this.emptyWords(state);
    else if (matching === 0) [title, text] = ["No poll matches", "Change the filter to see the others."];
    setText(byId("empty-title"), title);
    setText(byId("empty-text"), text);
    show(byId("empty"), title !== "");
    setAttr(byId("polls"), "aria-busy", state.kind === "connecting" ? "true" : "");
  }

  private emptyWords(state: LinkState): [string, string] {
    switch (state.kind) {
      case "connecting":
        return ["Connecting to the gateway", ""];
      case "waiting":
        return NOT_READY;
      case "live":
        return ["Connected, no polls yet", "Cards appear here as soon as a poller publishes its first value."];
      case "lost":
        if (state.notReady) return NOT_READY;
        return ["No connection to the gateway", "There is nothing to show yet. The page keeps trying."];
      case "refused":
        return ["The gateway refused the connection", ""];
    }
  }

  private chipWords(state: LinkState): string {
    switch (state.kind) {
      case "connecting":
        return this.everLive ? "Reconnecting" : "Connecting";
      case "waiting":
        return "Waiting for the stream";
      case "live":
        return { live: "Live", stale: "Connected", cut: "Gateway lost NATS" }[this.worth];
      case "lost":
        return state.notReady ? "Waiting for the stream" : "Connection lost";
      case "refused":
        return "Refused";
    }
  }

  private bannerWords(state: LinkState): string {
    const rest = this.everLive ? " The last values stay; all of them are stale." : "";
    switch (state.kind) {
      case "lost":
        return `${sentence(state.why)}${rest}`;
      case "refused":
        return `${sentence(state.why)} The page does not try again by itself.${rest}`;
      case "waiting":
        return `${sentence(state.why || "the gateway has not read the stream yet")}${rest}`;
      case "connecting":
        return this.everLive ? `Connecting again.${rest}` : "";
      case "live":
        return this.worth === "cut" ? "The gateway has lost NATS. The last values stay; all of them are stale." : "";
    }
  }

  /** Tells screen readers of the counts, not of every card. */
  private announce(fresh: number, stale: number): void {
    const text = stale > 0 ? `${stale} of ${fresh + stale} polls are stale` : fresh > 0 ? "all polls are fresh" : "";
    const now = this.store.now();
    if (text === this.announced || now - this.announcedAt < ANNOUNCE_MS) return;
    this.announced = text;
    this.announcedAt = now;
    setText(this.announcer, text);
  }
}

function sentence(s: string): string {
  const text = s.charAt(0).toUpperCase() + s.slice(1);
  return /[.!?)]$/.test(text) ? text : `${text}.`;
}
