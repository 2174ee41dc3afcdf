import { isObject, type Json } from "./json.ts";

/** What the demo's upstream can be made to do, and what it does now. */
export interface Faults {
  methods: string[];
  kinds: string[];
  active: { method: string; kind: string }[];
}

/** Every method. */
export const ALL = "*";

/** The kind that takes a fault away. */
export const NONE = "none";

/** Reads the answer of GET demo/faults; undefined when faults are not allowed. */
export function readFaults(v: unknown): Faults | undefined {
  if (!isObject(v) || v["allowed"] !== true) return undefined;
  const kinds = strings(v["kinds"]);
  if (kinds.length === 0) return undefined;
  const active = Array.isArray(v["active"]) ? v["active"] : [];
  return {
    methods: strings(v["methods"]).filter((m) => m !== ALL),
    kinds,
    active: active.filter(isObject).map((a) => ({ method: String(a["method"]), kind: String(a["kind"]) })),
  };
}

function strings(v: Json | undefined): string[] {
  return Array.isArray(v) ? v.filter((x): x is string => typeof x === "string") : [];
}

/** The fault that a method has by itself; "none" without. */
export function faultOf(f: Faults, method: string): string {
  return f.active.find((a) => a.method === method)?.kind ?? NONE;
}

/** The demo's switches, as the gateway passes them on. */
export class FaultsApi {
  constructor(private readonly url: string) {}

  /** The faults; undefined where there are no switches. Rejects when not told. */
  async get(): Promise<Faults | undefined> {
    const answer = await fetch(this.url, { cache: "no-store" });
    if (answer.status === 404) return undefined;
    await refuse(answer);
    return readFaults(await answer.json());
  }

  /** Sets a method's fault, and tells what is so then. */
  set(method: string, kind: string): Promise<Faults | undefined> {
    return this.change("POST", JSON.stringify({ method, kind }));
  }

  /** Takes all faults away, and tells what is so then. */
  clear(): Promise<Faults | undefined> {
    return this.change("DELETE", null);
  }

  private async change(method: string, body: string | null): Promise<Faults | undefined> {
    // The type keeps forms of other sites' pages out: they cannot send it.
    const answer = await fetch(this.url, { method, headers: { "Content-Type": "application/json" }, body });
    await refuse(answer);
    return readFaults(await answer.json());
  }
}

async function refuse(answer: Response): Promise<void> {
  if (answer.ok) return;
  const text = (await answer.text()).trim();
  throw new Error(messageOf(text) || `HTTP ${answer.status}${text ? `: ${text.slice(0, 200)}` : ""}`);
}

/** The message of {"error":{"code","message"}}; empty for other texts. */
function messageOf(text: string): string {
  try {
    const v: unknown = JSON.parse(text);
    const error = isObject(v) ? v["error"] : undefined;
    const message = isObject(error) ? error["message"] : undefined;
    return typeof message === "string" ? message.slice(0, 200) : "";
  } catch {
    return "";
  }
}
