import { isObject, parseJson, type Json, type JsonObject } from "./json.ts";

// The frames of proto/pollcast/v1 as the console uses them. Times are
// milliseconds since 1970 on the sender's clock; 0 means that there is none.

export type BreakerState = string;

export interface Welcome {
  gateway: string;
  epoch: string;
}

export interface Subscribed {
  seq: number;
  epoch: string;
}

export interface PollEvent {
  topic: string;
  seq: number;
  version: number;
  phase: string;
  changedAt: number;
  asOf: number;
  /** Age of the value when the gateway made the frame, in milliseconds. */
  ageMs: number;
  stale: boolean;
  reason: string;
  breaker: BreakerState;
  deleted: boolean;
  key: string;
  poll: string;
  upstream: string;
  data: Json;
  /** Length of the frame's text: what keeping the value costs, roughly. */
  size: number;
}

export interface Freshness {
  poll: string;
  asOf: number;
  checkedAt: number;
  stale: boolean;
  reason: string;
  detail: string;
  breaker: BreakerState;
  consecutiveFailures: number;
  nextProbeAt: number;
  intervalMs: number;
  maxAgeMs: number;
}

export interface Transition {
  source: string;
  upstream: string;
  from: BreakerState;
  to: BreakerState;
  cause: string;
  failures: number;
  nextProbeAt: number;
}

export interface ErrorFrame {
  code: string;
  message: string;
  retryable: boolean;
}

export interface GoAway {
  reason: string;
  reconnectAfterMs: number;
}

export type ServerFrame =
  | { kind: "welcome"; id: number; welcome: Welcome }
  | { kind: "subscribed"; id: number; subscribed: Subscribed }
  | { kind: "pong"; id: number }
  | { kind: "event"; id: number; event: PollEvent }
  | { kind: "fresh"; id: number; fresh: Freshness }
  | { kind: "breaker"; id: number; breaker: Transition }
  | { kind: "error"; id: number; error: ErrorFrame }
  | { kind: "goaway"; id: number; goaway: GoAway };

/**
 * Reads a frame from a gateway. Returns undefined for what is no frame and for
 * frames that this console does not know: a newer gateway may send them.
 */
export function decode(text: string): ServerFrame | undefined {
  let raw: unknown;
  try {
    raw = parseJson(text);
  } catch {
    return undefined;
  }
  if (!isObject(raw)) return undefined;
  const id = num(raw, "id");
  const { welcome, subscribed, pong, event, fresh, breaker, error, goaway } = raw;
  if (isObject(event)) {
    const read = readEvent(event, text.length);
    return read && { kind: "event", id, event: read };
  }
  if (isObject(fresh)) {
    const read = readFreshness(fresh);
    return read && { kind: "fresh", id, fresh: read };
  }
  if (isObject(breaker)) return { kind: "breaker", id, breaker: readTransition(breaker) };
  if (isObject(pong)) return { kind: "pong", id };
  if (isObject(welcome)) {
    return { kind: "welcome", id, welcome: { gateway: str(welcome, "gateway"), epoch: str(welcome, "epoch") } };
  }
  if (isObject(subscribed)) {
    return { kind: "subscribed", id, subscribed: { seq: num(subscribed, "seq"), epoch: str(subscribed, "epoch") } };
  }
  if (isObject(error)) {
    const read = { code: str(error, "code"), message: str(error, "message"), retryable: bool(error, "retryable") };
    return { kind: "error", id, error: read };
  }
  if (isObject(goaway)) {
    const read = { reason: str(goaway, "reason"), reconnectAfterMs: num(goaway, "reconnectAfterMs") };
    return { kind: "goaway", id, goaway: read };
  }
  return undefined;
}

function readEvent(o: JsonObject, size: number): PollEvent | undefined {
  const topic = str(o, "topic");
  if (!topic) return undefined;
  return {
    topic,
    seq: num(o, "seq"),
    version: num(o, "version"),
    phase: str(o, "phase"),
    changedAt: time(o, "changedAt"),
    asOf: time(o, "asOf"),
    ageMs: num(o, "ageMs"),
    stale: bool(o, "stale"),
    reason: str(o, "reason"),
    breaker: str(o, "breaker"),
    deleted: bool(o, "deleted"),
    key: str(o, "key"),
    poll: str(o, "poll") || topic,
    upstream: str(o, "upstream"),
    data: o["data"] ?? null,
    size,
  };
}

function readFreshness(o: JsonObject): Freshness | undefined {
  const poll = str(o, "poll");
  if (!poll) return undefined;
  return {
    poll,
    asOf: time(o, "asOf"),
    checkedAt: time(o, "checkedAt"),
    stale: bool(o, "stale"),
    reason: str(o, "reason"),
    detail: str(o, "detail"),
    breaker: str(o, "breaker"),
    consecutiveFailures: num(o, "consecutiveFailures"),
    nextProbeAt: time(o, "nextProbeAt"),
    intervalMs: num(o, "intervalMs"),
    maxAgeMs: num(o, "maxAgeMs"),
  };
}

function readTransition(o: JsonObject): Transition {
  return {
    source: str(o, "source"),
    upstream: str(o, "upstream"),
    from: str(o, "from"),
    to: str(o, "to"),
    cause: str(o, "cause"),
    failures: num(o, "failures"),
    nextProbeAt: time(o, "nextProbeAt"),
  };
}

// A field of the wrong type reads as absent: protobuf's rule, and a console that
// shows the rest is worth more than one that shows nothing.

function str(o: JsonObject, key: string): string {
  const v = o[key];
  return typeof v === "string" ? v : "";
}

function num(o: JsonObject, key: string): number {
  const v = o[key];
  if (typeof v === "bigint") return Number(v);
  return typeof v === "number" && Number.isFinite(v) ? v : 0;
}

function bool(o: JsonObject, key: string): boolean {
  return o[key] === true;
}

function time(o: JsonObject, key: string): number {
  const ms = Date.parse(str(o, key));
  // Go's zero time lies far before 1970.
  return Number.isFinite(ms) && ms > 0 ? ms : 0;
}
