import { ALL, faultOf, NONE, type Faults, type FaultsApi } from "../faults.ts";
import { button, el, setAttr, setText, show } from "./dom.ts";

const KINDS: Record<string, { label: string; hint: string }> = {
  none: { label: "Works", hint: "The upstream answers as it should." },
  slow: { label: "Slow", hint: "The upstream answers late." },
  error: { label: "Error", hint: "The upstream answers with a JSON-RPC error." },
  hang: { label: "Hang", hint: "The upstream takes the request and never answers." },
  garbage: { label: "Garbage", hint: "The upstream answers with something that is no JSON." },
  http500: { label: "HTTP 500", hint: "The upstream answers with HTTP status 500." },
};

/** The demo's switches: makes the upstream misbehave. Hidden where there are none. */
export class BreakPanel {
  private readonly method = el("select");
  private readonly kinds = el("div", "switches");
  private readonly hint = el("p", "hint");
  private readonly active = el("ul", "active");
  private readonly clear: HTMLButtonElement;
  private readonly error = el("p", "error");
  private faults: Faults | undefined;
  private busy = false;

  constructor(
    private readonly root: HTMLElement,
    body: HTMLElement,
    private readonly api: FaultsApi,
  ) {
    const label = el("label", "field", "Method");
    label.append(this.method);
    this.method.addEventListener("change", () => this.write());
    this.kinds.setAttribute("role", "group");
    this.kinds.setAttribute("aria-label", "What the upstream does");
    this.error.setAttribute("role", "alert");
    this.clear = button("small", "Clear all", () => void this.act(() => this.api.clear()));
    body.append(label, this.kinds, this.hint, this.active, this.clear, this.error);
  }

  /** Asks the gateway for the faults. */
  async refresh(): Promise<void> {
    try {
      this.faults = await this.api.get();
      setText(this.error, "");
    } catch (e) {
      // Said only where there is a panel already.
      setText(this.error, `The switches do not answer: ${message(e)}`);
    }
    this.write();
  }

  private async act(f: () => Promise<Faults | undefined>): Promise<void> {
    if (this.busy) return;
    this.busy = true;
    try {
      this.faults = await f();
      setText(this.error, "");
    } catch (e) {
      setText(this.error, `The upstream was not changed: ${message(e)}`);
    } finally {
      this.busy = false;
    }
    this.write();
  }

  private write(): void {
    const f = this.faults;
    show(this.root, f !== undefined);
    if (!f) return;
    this.writeMethods([ALL, ...f.methods]);
    const kind = faultOf(f, this.method.value);
    this.writeKinds([NONE, ...f.kinds.filter((k) => k !== NONE)], kind);
    setText(this.hint, KINDS[kind]?.hint ?? "");
    this.active.replaceChildren(
      ...f.active.map((a) => {
        const item = el("li");
        item.append(el("b", "", KINDS[a.kind]?.label ?? a.kind), ` ${methodWords(a.method)}`);
        return item;
      }),
    );
    show(this.active, f.active.length > 0);
    show(this.clear, f.active.length > 0);
  }

  private writeMethods(methods: string[]): void {
    const same = this.method.length === methods.length && methods.every((m, i) => this.method.options[i]?.value === m);
    if (same) return;
    const chosen = this.method.value;
    this.method.replaceChildren(
      ...methods.map((m) => {
        const option = el("option", "", methodWords(m));
        option.value = m;
        return option;
      }),
    );
    this.method.value = methods.includes(chosen) ? chosen : ALL;
  }

  private writeKinds(kinds: string[], pressed: string): void {
    const have = [...this.kinds.children].map((b) => (b as HTMLElement).dataset["kind"]);
    if (have.join() !== kinds.join()) {
      this.kinds.replaceChildren(
        ...kinds.map((k) => {
          const b = button("switch", KINDS[k]?.label ?? k, () => void this.act(() => this.api.set(this.method.value, k)));
          b.dataset["kind"] = k;
          b.title = KINDS[k]?.hint ?? "";
          return b;
        }),
      );
    }
    for (const b of this.kinds.children) setAttr(b, "aria-pressed", String((b as HTMLElement).dataset["kind"] === pressed));
  }
}

function methodWords(method: string): string {
  return method === ALL ? "every method" : method;
}

function message(e: unknown): string {
  return e instanceof Error ? e.message : String(e);
}
