import { decode, type ServerFrame, type Subscribed } from "./frames.ts";
import { closeWords, reconnects } from "./words.ts";

/** The subprotocol whose frames are JSON. */
export const SUBPROTOCOL = "pollcast.v1.json";

/** Between two pings: JavaScript cannot see the gateway's own. */
export const PING_MS = 15_000;

/** Without a frame for so long after a ping, the connection is dead. */
export const PONG_MS = 10_000;

/** For opening a socket, and for the first frame on it. */
const OPEN_MS = 10_000;

/** The first and the longest pause before connecting again, before jitter. */
const BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 10_000;

/** The pause after a gateway said that it is full. */
const OVERLOADED_MS = 15_000;

/** A connection that lived so long was a good one: backing off begins anew. */
const GOOD_MS = 10_000;

/** Between two tries to subscribe at a gateway that is not ready. */
const UNAVAILABLE_MS = 2_000;

/** A gateway that is behind what was seen is left after so many refusals. */
const REFUSALS = 2;

/** The connection as the page shows it. */
export type LinkState =
  | { kind: "connecting" }
  /** Open, but the gateway cannot serve yet. */
  | { kind: "waiting"; why: string }
  | { kind: "live" }
  /** Gone; the next attempt is at the local time retryAt. */
  | { kind: "lost"; why: string; retryAt: number; notReady: boolean }
  /** Gone, and trying again by itself makes no sense. */
  | { kind: "refused"; why: string };

/** Why a socket never opened. */
export interface Explanation {
  why: string;
  /** The gateway is there, but cannot serve yet. */
  notReady: boolean;
}

/** What the link needs of a WebSocket. */
export interface Socket {
  onopen: ((e: Event) => void) | null;
  onmessage: ((m: MessageEvent) => void) | null;
  onclose: ((c: CloseEvent) => void) | null;
  onerror: ((e: Event) => void) | null;
  send(text: string): void;
  close(code?: number): void;
}

/** Time, so that tests have their own. */
export interface Timers {
  now(): number;
  /** Calls f once after ms milliseconds; the returned function prevents it. */
  after(ms: number, f: () => void): () => void;
}

export interface LinkOptions {
  open(): Socket;
  timers: Timers;
  /** 0 to 1. */
  random(): number;
  /** Says why a socket never opened; scripts are not told. */
  explain(): Promise<Explanation>;
  onState(state: LinkState): void;
  onFrame(frame: ServerFrame): void;
}

/**
 * One connection to a gateway at a time, subscribed to everything, and made
 * again when it is lost. A lost link says so at once, in onState; nothing comes
 * from a socket after that.
 */
export class Link {
  state: LinkState = { kind: "connecting" };
  private socket: Socket | undefined;
  private lastId = 0;
  private subscribeId = 0;
  private attempts = 0;
  private refusals = 0;
  /** How far the gateways have shown the stream: nothing older is wanted. */
  private seen: Subscribed | undefined;
  private liveSince: number | undefined;
  /** When the gateway asked to come back, local time. */
  private returnAt: number | undefined;
  private cancelRetry = () => {};
  private cancelDeadline = () => {};
  private cancelPing = () => {};
  private cancelLeave = () => {};
  private cancelSubscribe = () => {};

  constructor(private readonly o: LinkOptions) {}

  /** Connects now, whatever was planned; does nothing on a connection. */
  connect(): void {
    if (this.socket) return;
    this.cancelRetry();
    this.attempts++;
    this.lastId = 0;
    this.returnAt = undefined;
    this.become({ kind: "connecting" });
    let opened = false;
    let s: Socket;
    try {
      s = this.o.open();
    } catch (e) {
      this.lose(e instanceof Error ? e.message : String(e), undefined);
      return;
    }
    this.socket = s;
    this.expect(OPEN_MS, "the gateway did not answer in time");
    s.onopen = () => {
      opened = true;
      this.expect(OPEN_MS, "the gateway sent nothing");
      this.subscribe();
      this.schedulePing();
    };
    s.onmessage = (m) => this.receive(m.data);
    s.onclose = (c) => {
      if (opened) this.lose(c.reason ? `${closeWords(c.code)} (${c.reason})` : closeWords(c.code), c.code);
      else this.loseUnopened();
    };
    s.onerror = () => {};
  }

  /** Asks the gateway for a sign of life now rather than at the next ping. */
  check(): void {
    if (this.socket && this.subscribeId) this.ping();
  }

  private receive(data: unknown): void {
    // Any frame shows that the gateway is there.
    this.cancelDeadline();
    const frame = typeof data === "string" ? decode(data) : undefined;
    if (!frame) return;
    switch (frame.kind) {
      case "subscribed":
        this.liveSince ??= this.o.timers.now();
        this.refusals = 0;
        this.seen = { ...frame.subscribed };
        this.become({ kind: "live" });
        break;
      case "event":
        if (this.seen) this.seen.seq = Math.max(this.seen.seq, frame.event.seq);
        break;
      case "error":
        if (frame.id === this.subscribeId) this.notSubscribed(frame.error.message, frame.error.retryable);
        break;
      case "goaway":
        this.leave(frame.goaway.reconnectAfterMs);
        break;
    }
    this.o.onFrame(frame);
  }

  private subscribe(): void {
    const notOlderThan = this.seen?.seq ? this.seen : undefined;
    this.subscribeId = this.send({ subscribe: { topics: [">"], notOlderThan } });
  }

  private notSubscribed(message: string, retryable: boolean): void {
    if (!retryable) {
      this.drop();
      this.become({ kind: "refused", why: message || "the gateway refused the subscription" });
      return;
    }
    // Its NATS server may be cut off for long. Another gateway's may not be.
    if (this.seen && ++this.refusals >= REFUSALS) {
      this.lose(message, undefined);
      return;
    }
    this.become({ kind: "waiting", why: message });
    this.cancelSubscribe();
    this.cancelSubscribe = this.o.timers.after(this.jitter(UNAVAILABLE_MS), () => this.subscribe());
  }

  /** The gateway drains: stay as long as it says, then come back elsewhere. */
  private leave(afterMs: number): void {
    const { timers } = this.o;
    this.returnAt = timers.now() + afterMs;
    this.cancelLeave();
    this.cancelLeave = timers.after(afterMs, () => {
      this.drop();
      this.connect();
    });
  }

  private schedulePing(): void {
    this.cancelPing();
    this.cancelPing = this.o.timers.after(PING_MS, () => {
      this.ping();
      this.schedulePing();
    });
  }

  private ping(): void {
    this.send({ ping: {} });
    this.expect(PONG_MS, "the gateway stopped answering");
  }

  private send(frame: object): number {
    const id = ++this.lastId;
    // A socket that is closing throws or ignores it; its onclose follows.
    try {
      this.socket?.send(JSON.stringify({ id, ...frame }));
    } catch {
      // Said by onclose.
    }
    return id;
  }

  /** Loses the connection unless a frame comes in time. */
  private expect(ms: number, otherwise: string): void {
    this.cancelDeadline();
    this.cancelDeadline = this.o.timers.after(ms, () => this.lose(otherwise, undefined));
  }

  private loseUnopened(): void {
    this.lose("the gateway cannot be reached", undefined);
    const lost = this.state;
    void this.o.explain().then((explanation) => {
      if (this.state === lost && lost.kind === "lost") this.become({ ...lost, ...explanation });
    });
  }

  private lose(why: string, code: number | undefined): void {
    const { returnAt } = this;
    const now = this.o.timers.now();
    this.drop();
    if (code !== undefined && !reconnects(code)) {
      this.become({ kind: "refused", why });
      return;
    }
    let pause = this.jitter(Math.min(BACKOFF_MS * 2 ** Math.min(this.attempts, 10), MAX_BACKOFF_MS));
    if (code === 1013) pause = Math.max(pause, this.jitter(OVERLOADED_MS));
    if (returnAt !== undefined) pause = Math.max(0, returnAt - now);
    this.become({ kind: "lost", why, retryAt: now + pause, notReady: false });
    this.cancelRetry();
    this.cancelRetry = this.o.timers.after(pause, () => this.connect());
  }

  /** Lets go of the socket: nothing more is heard from it, not even its close. */
  private drop(): void {
    for (const cancel of [this.cancelDeadline, this.cancelPing, this.cancelLeave, this.cancelSubscribe]) cancel();
    const s = this.socket;
    if (this.liveSince !== undefined && this.o.timers.now() - this.liveSince >= GOOD_MS) this.attempts = 0;
    this.socket = undefined;
    this.subscribeId = 0;
    this.refusals = 0;
    this.liveSince = undefined;
    if (!s) return;
    s.onopen = s.onmessage = s.onclose = s.onerror = null;
    s.close(1000);
  }

  private become(state: LinkState): void {
    this.state = state;
    this.o.onState(state);
  }

  private jitter(ms: number): number {
    return ms * (0.5 + this.o.random() / 2);
  }
}
