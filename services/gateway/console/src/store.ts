import type { LocalClock, ServerClock } from "./clock.ts";
import type { Freshness, PollEvent, Transition } from "./frames.ts";
import { judge, Moment, sameVerdict, type Verdict } from "./freshness.ts";
import { numericLeaves } from "./numbers.ts";
import { SeriesSet } from "./series.ts";
import type { Span } from "./spark.ts";
import { breakerWords, reasonWords } from "./words.ts";

/** What the page keeps at most. What is beyond is counted and said. */
export const LIMITS = {
  polls: 500,
  topics: 5_000,
  /** Topics of one poll that have lines. */
  seriesPerPoll: 50,
  /** Text of one value that is kept, in characters. */
  value: 512 * 1024,
  /** Text of all values together. */
  values: 64 * 1024 * 1024,
  spans: 60,
};

/** After a reconnect, what the gateway has not named again by then is gone. */
const SETTLE_MS = 10_000;

/** Interval of a poll that has not said its own, in milliseconds. */
const DEFAULT_INTERVAL_MS = 5_000;

/** A topic with its last value. */
export interface Topic {
  readonly name: string;
  event: PollEvent;
  /** Whether event.data is the value; false when it was too large to keep. */
  kept: boolean;
  /** The connection on which it was last named. */
  generation: number;
  changed: Moment | undefined;
  series: SeriesSet | undefined;
}

/** A poll with everything the page shows of it. */
export interface Poll {
  readonly name: string;
  record: Freshness | undefined;
  /** The flags of its last event: all there is before the first record. */
  flags: { stale: boolean; reason: string; breaker: string } | undefined;
  /** Local time of the last frame that spoke for it. */
  heardAt: number;
  generation: number;
  confirmed: Moment | undefined;
  verdict: Verdict;
  /** The stale stretches, oldest first. */
  spans: Span[];
  readonly topics: Map<string, Topic>;
  /** What the log last said of it. */
  told: Verdict | undefined;
}

/** A line of the log. */
export interface LogEntry {
  wall: number;
  kind: "fresh" | "stale" | "breaker" | "connection";
  /** What it is about. */
  subject: string;
  text: string;
  /** More, for who asks. */
  detail: string;
}

export interface StoreListener {
  /** Something of the poll changed that is shown. */
  changed(poll: Poll): void;
  removed(poll: Poll): void;
  log(entry: LogEntry): void;
}

/** Everything the page knows, bounded, and judged again as time passes. */
export class Store {
  readonly polls = new Map<string, Poll>();
  epoch = "";
  seq = 0;
  gateway = "";
  /** Topics and polls that did not fit, by name as long as those few fit. */
  private readonly dropped = new Set<string>();
  private topicCount = 0;
  private chars = 0;
  private connected = false;
  private generation = 0;
  private settleAt: number | undefined;

  constructor(
    private readonly clock: LocalClock,
    private readonly server: ServerClock,
    private readonly listener: StoreListener,
  ) {}

  /** A subscription was answered: what follows is a snapshot, then live. */
  begin(epoch: string, seq: number): void {
    this.connected = true;
    this.generation++;
    this.server.expire();
    this.epoch = epoch;
    this.seq = seq;
    this.dropped.clear();
    this.settleAt = this.clock.now() + SETTLE_MS;
    this.judgeAll();
  }

  /** The connection is gone: nothing is fresh any more. */
  end(): void {
    if (!this.connected) return;
    this.connected = false;
    this.judgeAll();
  }

  fresh(f: Freshness): void {
    const now = this.clock.now();
    this.server.observeCheck(f.checkedAt, now);
    const poll = this.poll(f.poll);
    if (!poll) return;
    poll.record = f;
    poll.heardAt = now;
    poll.generation = this.generation;
    poll.confirmed = Moment.newer(poll.confirmed, f.asOf, now);
    this.judge(poll, now);
    this.listener.changed(poll);
  }

  event(e: PollEvent): void {
    const now = this.clock.now();
    this.server.observeAge(e.asOf, e.ageMs, now);
    this.seq = Math.max(this.seq, e.seq);
    const poll = this.poll(e.poll);
    if (!poll) return;
    // A poller that sends values is not silent. A snapshot proves nothing.
    if (e.phase !== "snapshot" || poll.generation !== this.generation) poll.heardAt = now;
    // A record of the last connection must not speak for this one.
    if (poll.generation !== this.generation) poll.record = undefined;
    poll.generation = this.generation;
    poll.flags = { stale: e.stale, reason: e.reason, breaker: e.breaker };
    poll.confirmed = Moment.newer(poll.confirmed, e.asOf, now);
    if (e.phase === "snapshot") this.settleAt &&= now + SETTLE_MS;
    if (e.deleted) this.removeTopic(poll, e.topic);
    else this.put(poll, e, now);
    this.judge(poll, now);
    this.listener.changed(poll);
  }

  transition(b: Transition): void {
    const change = `${breakerWords(b.from)} → ${breakerWords(b.to)}`;
    this.say("breaker", b.source, b.cause ? `${change}: ${b.cause}` : change, b.upstream);
  }

  /** Judges everything anew; to be called about once a second. */
  judgeAll(): void {
    const now = this.clock.now();
    const settled = this.connected && this.settleAt !== undefined && now >= this.settleAt;
    if (settled) this.settleAt = undefined;
    for (const poll of this.polls.values()) {
      if (settled) this.forget(poll);
      if (this.judge(poll, now)) this.listener.changed(poll);
    }
  }

  /** Local time. */
  now(): number {
    return this.clock.now();
  }

  /** The poll's interval in milliseconds. */
  step(poll: Poll): number {
    return poll.record?.intervalMs || DEFAULT_INTERVAL_MS;
  }

  /** Whether the topic was named on this connection. */
  isCurrent(t: Topic): boolean {
    return t.generation === this.generation;
  }

  /** Age of the moment in milliseconds. */
  age(m: Moment): number {
    return m.age(this.server, this.clock.now());
  }

  /** Milliseconds from now until t on the gateway's clock; negative when past. */
  until(t: number): number {
    return (this.server.toLocal(t) ?? t - this.clock.wall() + this.clock.now()) - this.clock.now();
  }

  /** Whether the gateway says that it has lost NATS: it says so of every poll. */
  busLost(): boolean {
    for (const p of this.polls.values()) if (p.verdict.reason !== "bus_disconnected") return false;
    return this.connected && this.polls.size > 0;
  }

  /** Polls that are fresh and stale, and what did not fit on the page. */
  counts(): { fresh: number; stale: number; dropped: number } {
    let stale = 0;
    for (const p of this.polls.values()) if (p.verdict.stale) stale++;
    return { fresh: this.polls.size - stale, stale, dropped: this.dropped.size };
  }

  private poll(name: string): Poll | undefined {
    const known = this.polls.get(name);
    if (known) return known;
    if (this.polls.size >= LIMITS.polls) {
      this.drop(name);
      return undefined;
    }
    const poll: Poll = {
      name,
      record: undefined,
      flags: undefined,
      heardAt: this.clock.now(),
      generation: this.generation,
      confirmed: undefined,
      verdict: { stale: false, reason: "", detail: "" },
      spans: [],
      topics: new Map(),
      told: undefined,
    };
    this.polls.set(name, poll);
    return poll;
  }

  private put(poll: Poll, e: PollEvent, now: number): void {
    let topic = poll.topics.get(e.topic);
    if (!topic) {
      if (this.topicCount >= LIMITS.topics) {
        this.drop(e.topic);
        return;
      }
      topic = { name: e.topic, event: e, kept: false, generation: 0, changed: undefined, series: undefined };
      if (poll.topics.size < LIMITS.seriesPerPoll) {
        topic.series = e.topic === poll.name ? new SeriesSet(16, 4) : new SeriesSet(4, 1);
      }
      poll.topics.set(e.topic, topic);
      this.topicCount++;
    } else {
      // The same event again, by a snapshot after a reconnect, is no new point.
      const same = topic.event.seq === e.seq && topic.event.version === e.version;
      this.release(topic);
      if (same) {
        topic.event = e;
        topic.generation = this.generation;
        this.keep(topic);
        return;
      }
      topic.event = e;
    }
    topic.generation = this.generation;
    const changed = Moment.newer(undefined, e.changedAt, now);
    topic.changed = changed;
    topic.series?.add(numericLeaves(e.data), changed ? now - changed.age(this.server, now) : now);
    this.keep(topic);
  }

  /** Keeps the topic's value if there is room. */
  private keep(topic: Topic): void {
    const { event } = topic;
    topic.kept = event.size <= LIMITS.value && this.chars + event.size <= LIMITS.values;
    if (topic.kept) this.chars += event.size;
    else event.data = null;
  }

  private release(topic: Topic): void {
    if (topic.kept) this.chars -= topic.event.size;
    topic.kept = false;
  }

  private removeTopic(poll: Poll, name: string): void {
    const topic = poll.topics.get(name);
    if (!topic) return;
    this.release(topic);
    poll.topics.delete(name);
    this.topicCount--;
  }

  /** Takes away what went while the page was not connected. */
  private forget(poll: Poll): void {
    if (poll.generation !== this.generation) {
      for (const name of [...poll.topics.keys()]) this.removeTopic(poll, name);
      this.polls.delete(poll.name);
      this.say("stale", poll.name, "gone", "this gateway does not name it any more");
      this.listener.removed(poll);
      return;
    }
    for (const topic of [...poll.topics.values()]) {
      if (topic.generation !== this.generation) this.removeTopic(poll, topic.name);
    }
    this.listener.changed(poll);
  }

  private drop(name: string): void {
    if (this.dropped.size < LIMITS.topics) this.dropped.add(name);
  }

  /** Judges one poll; true when what it is shown as changed. */
  private judge(poll: Poll, now: number): boolean {
    const verdict = judge(
      {
        connected: this.connected,
        current: poll.generation === this.generation,
        record: poll.record,
        heardAt: poll.heardAt,
        event: poll.flags,
      },
      now,
    );
    const before = poll.verdict;
    if (sameVerdict(before, verdict)) {
      poll.told ??= verdict;
      return false;
    }
    poll.verdict = verdict;
    this.markSpan(poll, verdict.stale, now);
    this.tell(poll, verdict);
    return true;
  }

  private markSpan(poll: Poll, stale: boolean, now: number): void {
    const last = poll.spans.at(-1);
    const open = last && last.to === undefined;
    if (stale && !open) poll.spans.push({ from: now, to: undefined });
    if (!stale && open) last.to = now;
    if (poll.spans.length > LIMITS.spans) poll.spans.shift();
  }

  /** Logs a change of a poll, but not that the connection took all with it. */
  private tell(poll: Poll, v: Verdict): void {
    if (v.reason === "connection_lost") return;
    const { told } = poll;
    if (told ? told.stale === v.stale && told.reason === v.reason : !v.stale) {
      poll.told = v;
      return;
    }
    poll.told = v;
    if (!v.stale) this.say("fresh", poll.name, "fresh again");
    else this.say("stale", poll.name, reasonWords(v.reason).short, v.detail);
  }

  /** Adds a line to the log. */
  say(kind: LogEntry["kind"], subject: string, text: string, detail = ""): void {
    this.listener.log({ wall: this.clock.wall(), kind, subject, text, detail });
  }
}
