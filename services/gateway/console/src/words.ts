// What the numbers and names of proto/wire.md mean, for people.

/** A reason of staleness: for the badge, and as a sentence. */
export interface ReasonWords {
  short: string;
  long: string;
  /** Whether the way to the upstream is gone, rather than one answer. */
  grave: boolean;
}

const REASONS: Record<string, ReasonWords> = {
  upstream_error: {
    short: "upstream error",
    long: "The upstream answered with an error or could not be reached.",
    grave: false,
  },
  timeout: { short: "timeout", long: "The upstream did not answer in time.", grave: false },
  bad_response: {
    short: "bad answer",
    long: "The upstream answered with something that is not what its protocol says.",
    grave: false,
  },
  request_rejected: {
    short: "request rejected",
    long: "The upstream says that the request itself is wrong.",
    grave: false,
  },
  breaker_open: {
    short: "breaker open",
    long: "The upstream failed too often in a row. It is left alone until the next probe.",
    grave: true,
  },
  not_advancing: {
    short: "not advancing",
    long: "The upstream answers, but its value stands still.",
    grave: false,
  },
  poller_silent: {
    short: "poller silent",
    long: "No poller has confirmed this for too long.",
    grave: true,
  },
  bus_disconnected: { short: "gateway lost NATS", long: "The gateway has lost NATS.", grave: true },
  connection_lost: {
    short: "connection lost",
    long: "This page has lost its gateway.",
    grave: true,
  },
};

/** Words for a reason; one that this console does not know stands for itself. */
export function reasonWords(reason: string): ReasonWords {
  return REASONS[reason] ?? { short: reason || "not confirmed", long: "The value is not confirmed.", grave: false };
}

const CLOSES: Record<number, string> = {
  1000: "the gateway closed the connection",
  1001: "the gateway shuts down",
  1002: "the gateway saw a WebSocket protocol error",
  1005: "the gateway closed the connection without a reason",
  1006: "the connection broke",
  1007: "the gateway got text that is not UTF-8",
  1009: "the gateway got a message that is too big",
  1012: "the gateway restarts",
  1013: "the gateway holds as many connections as it may",
  4001: "the token has expired",
  4002: "this page was too slow to read",
  4003: "this page did not answer pings",
  4500: "the gateway wants a valid token",
  4501: "the token does not allow this",
  4502: "the gateway could not read this page's frames",
  4503: "there are too many connections from this user or address",
};

/** What a close code means. */
export function closeWords(code: number): string {
  return CLOSES[code] ?? `the connection was closed with code ${code}`;
}

/** Whether connecting again makes sense after a close code: proto/wire.md. */
export function reconnects(code: number): boolean {
  if (code === 1002 || code === 1007 || code === 1009) return false;
  return code < 4500 || code > 4999;
}

/** A breaker state as it is written on the page. */
export function breakerWords(state: string): string {
  return state.replaceAll("_", "-");
}

/** The source of a poll: the first token of its name. */
export function sourceOf(poll: string): string {
  const dot = poll.indexOf(".");
  return dot < 0 ? poll : poll.slice(0, dot);
}
