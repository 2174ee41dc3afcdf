import { ago, countdown, duration, interval, measured } from "../format.ts";
import type { Store, Poll, Topic } from "../store.ts";
import { breakerWords, reasonWords, sourceOf } from "../words.ts";
import { copy, natsCommand } from "./clipboard.ts";
import { button, el, setAttr, setData, setText, show } from "./dom.ts";
import { KeyTable } from "./key-table.ts";
import { SparkView } from "./spark-view.ts";
import { Tree } from "./tree.ts";

/** How long the copy button says that it did. */
const COPIED_MS = 2_000;

interface Figure {
  root: HTMLElement;
  label: HTMLElement;
  value: HTMLElement;
  spark: SparkView;
}

/** A poll on the page. */
export class Card {
  readonly root = el("article", "card");
  private readonly badge = el("span", "badge");
  private readonly reason = el("p", "reason");
  private readonly detail = el("p", "detail");
  private readonly confirmed = el("span", "confirmed");
  private readonly changed = el("span", "changed");
  private readonly pill = el("span", "pill");
  private readonly failures = el("span", "failures");
  private readonly probe = el("span", "probe");
  private readonly rhythm = el("span", "rhythm");
  private readonly figures = el("div", "figures");
  private readonly empty = el("p", "empty", "No value yet.");
  private readonly origin = el("span", "origin");
  private readonly figureViews: Figure[] = [];
  private readonly body = el("div", "body");
  private tree: Tree | undefined;
  private keys: KeyTable | undefined;

  constructor(
    readonly poll: Poll,
    private readonly store: Store,
  ) {
    const source = sourceOf(poll.name);
    const title = el("h2", "name");
    title.append(el("span", "source", source), poll.name.slice(source.length));
    title.title = poll.name;
    const head = el("header", "card-head");
    head.append(title, this.badge);
    const facts = el("p", "facts");
    facts.append(this.pill, this.probe, this.failures, this.rhythm);
    const ages = el("p", "ages");
    ages.append(this.confirmed, this.changed);
    const foot = el("footer", "card-foot");
    foot.append(this.origin, this.copyButton());
    this.body.append(this.empty);
    this.root.append(head, this.reason, this.detail, ages, facts, this.figures, this.body, foot);
  }

  /** Writes how far the values can be trusted. Never put off: see Grid. */
  judge(): void {
    const { verdict, record, flags } = this.poll;
    const words = reasonWords(verdict.reason);
    setData(this.root, "state", verdict.stale ? "stale" : "fresh");
    setData(this.root, "grave", String(verdict.stale && words.grave));
    setText(this.badge, verdict.stale ? `STALE · ${words.short}` : "fresh");
    setText(this.reason, verdict.stale ? words.long : "");
    show(this.reason, verdict.stale);
    setText(this.detail, verdict.detail);
    show(this.detail, verdict.detail !== "");

    const breaker = record?.breaker || flags?.breaker || "";
    setText(this.pill, breaker ? `breaker ${breakerWords(breaker)}` : "breaker unknown");
    setData(this.pill, "state", breaker || "unknown");
    setText(this.failures, failureWords(record?.consecutiveFailures ?? 0));
    setText(this.rhythm, record?.intervalMs ? `every ${interval(record.intervalMs)}` : "");
    this.tick();
  }

  /** Writes the values. */
  update(): void {
    const { topics } = this.poll;
    const own = topics.get(this.poll.name);
    const keyed = topics.size - (own ? 1 : 0);
    this.showTree(own);
    this.showKeys(keyed);
    show(this.empty, !own && keyed === 0);
    this.draw();
  }

  /** Writes the ages and the countdown. */
  tick(): void {
    const { poll, store } = this;
    this.writeAges();
    const probe = poll.record?.breaker === "open" ? poll.record.nextProbeAt : 0;
    setText(this.probe, probe ? probeWords(store.until(probe)) : "");
  }

  /** Draws the lines up to now. */
  draw(): void {
    this.drawFigures();
    this.keys?.draw();
  }

  private writeAges(): void {
    const { confirmed, verdict, topics, name } = this.poll;
    if (!confirmed) {
      setText(this.confirmed, "never confirmed");
      setText(this.changed, "");
      return;
    }
    const age = this.store.age(confirmed);
    setText(this.confirmed, `${verdict.stale ? "last " : ""}confirmed ${ago(age)}`);
    const changed = topics.get(name)?.changed;
    // A value cannot have changed after it was last seen.
    setText(this.changed, changed ? `changed ${ago(Math.max(this.store.age(changed), age))}` : "");
  }

  private showTree(own: Topic | undefined): void {
    if (!own) {
      this.tree?.root.remove();
      this.tree = undefined;
      const { size } = this.poll.topics;
      setText(this.origin, size > 0 ? `${size} ${size === 1 ? "key" : "keys"}` : "");
      setAttr(this.origin, "title", "");
      return;
    }
    if (!this.tree) this.body.prepend((this.tree = new Tree()).root);
    const { event } = own;
    if (own.kept) this.tree.update(event.data);
    else this.tree.update(`a value of ${event.size.toLocaleString("en")} characters, too large for this page`);
    setText(this.origin, [`v${event.version}`, event.upstream].filter(Boolean).join(" · "));
    setAttr(this.origin, "title", `version ${event.version} of this topic, stream position ${event.seq}`);
  }

  private showKeys(keyed: number): void {
    if (keyed === 0) {
      this.keys?.root.remove();
      this.keys = undefined;
      return;
    }
    if (!this.keys) this.body.append((this.keys = new KeyTable(this.poll, this.store)).root);
    this.keys.update();
  }

  private drawFigures(): void {
    const shown = this.poll.topics.get(this.poll.name)?.series?.shown ?? [];
    while (this.figureViews.length > shown.length) this.figureViews.pop()?.root.remove();
    for (const [i, series] of shown.entries()) {
      const f = (this.figureViews[i] ??= this.addFigure());
      const { name, unit } = labelOf(series.path);
      const last = series.points.at(-1)?.v ?? 0;
      setText(f.label, name);
      setAttr(f.label, "title", series.path);
      setText(f.value, measured(unit, last));
      f.spark.update(series.points, this.poll.spans, this.store.now(), this.store.step(this.poll), (min, max) => {
        return `${name}: ${measured(unit, last)}, between ${measured(unit, min)} and ${measured(unit, max)}`;
      });
    }
  }

  private addFigure(): Figure {
    const f = { root: el("figure"), label: el("span", "figure-label"), value: el("span", "figure-value"), spark: new SparkView("spark") };
    const caption = el("figcaption");
    caption.append(f.label, f.value);
    f.root.append(caption, f.spark.root);
    this.figures.append(f.root);
    return f;
  }

  private copyButton(): HTMLButtonElement {
    const command = natsCommand(this.poll.name);
    const text = "Copy nats sub";
    const b = button("small", text, () => {
      void copy(command).then((done) => {
        setText(b, done ? "Copied" : "Cannot copy");
        setTimeout(() => setText(b, text), COPIED_MS);
      });
    });
    b.title = command;
    b.setAttribute("aria-label", `Copy the nats sub command for ${this.poll.name}`);
    show(b, command !== "");
    return b;
  }
}

/**
 * What a path is called on the page, and the part that says its unit: of
 * `interfaces[eth0].rxBytes` "eth0 rxBytes" and "rxBytes".
 */
function labelOf(path: string): { name: string; unit: string } {
  const name = path.replace(/^.*?\[([^\]]*)\]\./, "$1 ") || "value";
  const unit = path.replace(/\[[^\]]*\]$/, "").replace(/^.*[.\]]/, "");
  return { name, unit };
}

// Without the number that opens the breaker: that one counts the calls of all
// polls of a source, this one those of the poll.
function failureWords(failures: number): string {
  if (failures === 0) return "";
  return `${failures} ${failures === 1 ? "failure" : "failures"} in a row`;
}

function probeWords(ms: number): string {
  if (ms > 0) return `next probe in ${countdown(ms)}`;
  return ms > -60_000 ? "probing now" : `probe overdue for ${duration(-ms)}`;
}
