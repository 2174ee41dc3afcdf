/** A wall clock that is this far ahead of the monotonic one has been asleep. */
const SLEEP_MS = 2_000;

/** How long an estimate of the gateway's clock is kept without a better one. */
const WINDOW_MS = 60_000;

/**
 * Local time in milliseconds that never goes back. It counts the time that the
 * machine slept, which performance.now() leaves out in some browsers: a value
 * does not stay young because the laptop was closed.
 */
export class LocalClock {
  private slept = 0;
  private ahead: number;

  constructor(
    private readonly mono: () => number = () => performance.now(),
    readonly wall: () => number = () => Date.now(),
  ) {
    this.ahead = wall() - mono();
  }

  now(): number {
    const mono = this.mono();
    const ahead = this.wall() - mono;
    // Setting the clock ahead looks like sleep too; that makes ages too old
    // until the next confirmation, never too young.
    if (ahead - this.ahead > SLEEP_MS) this.slept += ahead - this.ahead;
    this.ahead = ahead;
    return mono + this.slept;
  }
}

/** The largest of the samples of the last one to two windows. */
class WindowedMax {
  private current = -Infinity;
  private previous = -Infinity;
  private since = 0;
  private outdated = false;

  add(v: number, now: number): void {
    if (this.outdated) {
      this.current = this.previous = -Infinity;
      this.outdated = false;
    }
    if (now - this.since > WINDOW_MS) {
      this.previous = this.current;
      this.current = -Infinity;
      this.since = now;
    }
    this.current = Math.max(this.current, v);
  }

  /** Lets the next sample replace all others. */
  expire(): void {
    this.outdated = true;
  }

  get value(): number | undefined {
    const v = Math.max(this.current, this.previous);
    return v === -Infinity ? undefined : v;
  }
}

/**
 * An estimate of the gateway's clock from the frames alone, so that a wrong
 * clock in the browser does not lie about ages. Every frame was made at the
 * latest when it arrived, so every sample is a lower bound and the largest one,
 * of the frame that travelled fastest, is the best.
 */
export class ServerClock {
  private readonly aged = new WindowedMax();
  private readonly checked = new WindowedMax();

  /** From an event: the gateway's clock said asOf + ageMs. */
  observeAge(asOf: number, ageMs: number, now: number): void {
    // An age of 0 may be a negative one, cut off: a poller's clock is ahead.
    if (asOf > 0 && ageMs > 0) this.aged.add(asOf + ageMs - now, now);
  }

  /** From a freshness record: its maker's clock said checkedAt, or later. */
  observeCheck(checkedAt: number, now: number): void {
    if (checkedAt > 0) this.checked.add(checkedAt - now, now);
  }

  /** Starts anew with the next frame: another gateway has another clock. */
  expire(): void {
    this.aged.expire();
    this.checked.expire();
  }

  /** The local time at which the gateway's clock said t; undefined before any frame. */
  toLocal(t: number): number | undefined {
    const offset = this.aged.value ?? this.checked.value;
    return offset === undefined ? undefined : t - offset;
  }
}
