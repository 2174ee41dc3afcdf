import { LocalClock, ServerClock } from "../src/clock.ts";
import type { Freshness, PollEvent } from "../src/frames.ts";
import type { Socket, Timers } from "../src/link.ts";
import { Store, type LogEntry, type Poll } from "../src/store.ts";

/** Time that only a test moves. */
export class FakeTime implements Timers {
  private at = 1_000_000;
  private timers: { due: number; f: () => void }[] = [];

  now(): number {
    return this.at;
  }

  after(ms: number, f: () => void): () => void {
    const timer = { due: this.at + ms, f };
    this.timers.push(timer);
    return () => {
      this.timers = this.timers.filter((t) => t !== timer);
    };
  }

  /** Moves time on and calls what falls due, in order. */
  advance(ms: number): void {
    const end = this.at + ms;
    for (;;) {
      const next = this.timers.filter((t) => t.due <= end).sort((a, b) => a.due - b.due)[0];
      if (!next) break;
      this.timers = this.timers.filter((t) => t !== next);
      this.at = Math.max(this.at, next.due);
      next.f();
    }
    this.at = end;
  }

  get pending(): number {
    return this.timers.length;
  }
}

/** A socket whose other end is the test. */
export class FakeSocket implements Socket {
  onopen: Socket["onopen"] = null;
  onmessage: Socket["onmessage"] = null;
  onclose: Socket["onclose"] = null;
  onerror: Socket["onerror"] = null;
  readonly sent: Record<string, unknown>[] = [];
  closed = false;

  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }

  close(): void {
    this.closed = true;
  }

  open(): void {
    this.onopen?.(new Event("open"));
  }

  receive(frame: unknown): void {
    this.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) } as MessageEvent);
  }

  /** The other end goes away. */
  lose(code: number, reason = ""): void {
    this.onclose?.({ code, reason } as CloseEvent);
  }
}

/** How far the gateway's clock is from the local one. */
const SERVER = 1_800_000_000_000;

/** A store on fake time, and frames as a gateway would send them now. */
export class Bench {
  readonly time = new FakeTime();
  readonly log: LogEntry[] = [];
  readonly changed: string[] = [];
  readonly removed: string[] = [];
  readonly store: Store;
  private seq = 100;

  constructor() {
    const clock = new LocalClock(
      () => this.time.now(),
      () => this.time.now() + 5,
    );
    this.store = new Store(clock, new ServerClock(), {
      changed: (p) => this.changed.push(p.name),
      removed: (p) => this.removed.push(p.name),
      log: (e) => this.log.push(e),
    });
  }

  /** Now on the gateway's clock. */
  get server(): number {
    return this.time.now() + SERVER;
  }

  connect(): void {
    this.store.begin("E", this.seq);
  }

  fresh(poll: string, over: Partial<Freshness> = {}): void {
    this.store.fresh({
      poll,
      asOf: this.server - 10,
      checkedAt: this.server,
      stale: false,
      reason: "",
      detail: "",
      breaker: "closed",
      consecutiveFailures: 0,
      nextProbeAt: 0,
      intervalMs: 2_000,
      maxAgeMs: 6_000,
      ...over,
    });
  }

  event(topic: string, data: PollEvent["data"], over: Partial<PollEvent> = {}): void {
    const asOf = over.asOf ?? this.server - 10;
    this.store.event({
      topic,
      seq: ++this.seq,
      version: this.seq,
      phase: "live",
      changedAt: asOf,
      asOf,
      ageMs: this.server - asOf,
      stale: false,
      reason: "",
      breaker: "closed",
      deleted: false,
      key: "",
      poll: topic,
      upstream: "http://upstream",
      data,
      size: 100,
      ...over,
    });
  }

  poll(name: string): Poll {
    const p = this.store.polls.get(name);
    if (!p) throw new Error(`no poll ${name}`);
    return p;
  }

  /** Lets time pass as on the page: judged twice a second. */
  pass(ms: number): void {
    for (let left = ms; left > 0; left -= 500) {
      this.time.advance(Math.min(500, left));
      this.store.judgeAll();
    }
  }
}
