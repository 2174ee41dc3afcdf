import type { ServerClock } from "./clock.ts";
import type { Freshness } from "./frames.ts";

/** How much later than maxAge a silent poll is called stale, in milliseconds. */
export const GRACE_MS = 1_000;

/** How long an event may stand without a freshness record, in milliseconds. */
export const UNSPOKEN_MS = 10_000;

/**
 * A moment on the gateway's clock whose distance to now is shown. The distance
 * only ever grows by itself: when the estimate of the gateway's clock changes,
 * the older reading wins, and only a newer moment makes it younger.
 */
export class Moment {
  private constructor(
    /** Milliseconds since 1970 on the gateway's clock. */
    readonly at: number,
    /** The same on the local clock, or earlier. */
    private anchor: number,
  ) {}

  /** The moment `at` as first heard of at the local time now. */
  static heard(at: number, now: number): Moment {
    return new Moment(at, now);
  }

  /** Milliseconds since the moment, 0 or more. */
  age(clock: ServerClock, now: number): number {
    this.anchor = Math.min(this.anchor, clock.toLocal(this.at) ?? this.anchor);
    return Math.max(0, now - this.anchor);
  }

  /** The newer of the two moments; the old one when `at` is not newer. */
  static newer(old: Moment | undefined, at: number, now: number): Moment | undefined {
    if (at <= 0 || (old && at <= old.at)) return old;
    return Moment.heard(at, now);
  }
}

/** What is known of a poll when it is judged. Times are local. */
export interface Evidence {
  /** Whether the socket is there and subscribed. */
  connected: boolean;
  /** Whether the gateway spoke of the poll on this connection. */
  current: boolean;
  record: Freshness | undefined;
  /** When it last did. */
  heardAt: number;
  /** The flags of the last event, for as long as there is no record. */
  event: { stale: boolean; reason: string } | undefined;
}

/** What a poll is shown as. */
export interface Verdict {
  stale: boolean;
  /** One of the reasons in proto/wire.md; empty while fresh. */
  reason: string;
  /** The last failure in words; may be empty. */
  detail: string;
}

const FRESH: Verdict = { stale: false, reason: "", detail: "" };

/**
 * Decides whether a poll's values may be shown as fresh at the local time now.
 * In doubt they may not.
 */
export function judge(e: Evidence, now: number): Verdict {
  if (!e.connected || !e.current) return { stale: true, reason: "connection_lost", detail: "" };
  const { record } = e;
  if (!record) {
    if (e.event?.stale) return { stale: true, reason: e.event.reason, detail: "" };
    if (now - e.heardAt > UNSPOKEN_MS) {
      return { stale: true, reason: "poller_silent", detail: "no freshness record has come for this poll" };
    }
    return FRESH;
  }
  if (record.stale) return { stale: true, reason: record.reason, detail: record.detail };
  if (record.maxAgeMs > 0 && now - e.heardAt > record.maxAgeMs + GRACE_MS) {
    return { stale: true, reason: "poller_silent", detail: "" };
  }
  return FRESH;
}

export function sameVerdict(a: Verdict, b: Verdict): boolean {
  return a.stale === b.stale && a.reason === b.reason && a.detail === b.detail;
}
