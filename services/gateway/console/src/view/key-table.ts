import { ago, measured } from "../format.ts";
import { isObject, isScalar } from "../json.ts";
import { cellOf, columnsOf, field, type Cell } from "../outline.ts";
import type { Poll, Store, Topic } from "../store.ts";
import { button, el, setText, show } from "./dom.ts";
import { SparkView } from "./spark-view.ts";
import { Table, type Line } from "./table.ts";

/** Keys on the page before somebody asks for more, and at most. */
const FIRST = 50;
const MOST = 500;

/** Columns for what the values hold, beside the key, the line and the age. */
const FIELDS = 3;

const collator = new Intl.Collator("en", { numeric: true });

/** The keyed topics of a poll, one per line. */
export class KeyTable {
  readonly root = el("div", "keys");
  private readonly table = new Table();
  private readonly more: HTMLButtonElement;
  private readonly note = el("span", "note");
  private readonly sparks = new Map<string, SparkView>();
  private shown: Topic[] = [];
  private expanded = false;

  constructor(
    private readonly poll: Poll,
    private readonly store: Store,
  ) {
    this.more = button("link", "", () => {
      this.expanded = !this.expanded;
      this.update();
      this.draw();
    });
    this.root.append(this.table.root, this.more, this.note);
  }

  update(): void {
    const all = [...this.poll.topics.values()].filter((t) => t.name !== this.poll.name);
    all.sort((a, b) => collator.compare(keyOf(a), keyOf(b)));
    this.shown = all.slice(0, this.expanded ? MOST : FIRST);
    for (const name of [...this.sparks.keys()]) if (!this.poll.topics.has(name)) this.sparks.delete(name);
    const beyond = all.length - this.shown.length;
    show(this.more, all.length > FIRST);
    setText(this.more, this.expanded ? "Show less" : `Show more (${all.length - FIRST})`);
    setText(this.note, this.expanded && beyond > 0 ? `${beyond} more are not shown` : "");
  }

  /** Writes the lines, with their ages. */
  draw(): void {
    const kept = this.shown.filter((t) => t.kept);
    const fields = kept.some((t) => isObject(t.event.data)) ? columnsOf(kept.map((t) => t.event.data), FIELDS) : ["value"];
    const lined = this.shown.some((t) => (t.series?.shown.length ?? 0) > 0);
    const columns = ["key", ...(lined ? ["trend"] : []), ...fields, "changed"];
    this.table.update(`keys of ${this.poll.name}`, columns, this.shown.map((t) => this.line(t, fields, lined)));
  }

  private line(t: Topic, fields: string[], lined: boolean): Line {
    const { data } = t.event;
    const values = fields.map((f): Cell => {
      if (!t.kept) return text("too large");
      return cellOf(f, isObject(data) ? field(data, f) : f === fields[0] ? data : undefined);
    });
    const name = keyOf(t);
    const key: Cell = { text: name, title: t.name, kind: "string" };
    const changed = text(t.changed ? ago(this.store.age(t.changed)) : "");
    return { cells: [key, ...(lined ? [this.spark(t, name)] : []), ...values, changed], muted: !this.store.isCurrent(t) };
  }

  private spark(t: Topic, name: string): Cell | Element {
    const series = t.series?.shown[0];
    if (!series) return text("");
    let view = this.sparks.get(t.name);
    if (!view) this.sparks.set(t.name, (view = new SparkView("spark-small")));
    const unit = isScalar(t.event.data) ? "" : series.path;
    view.update(series.points, this.poll.spans, this.store.now(), this.store.step(this.poll), (min, max) => {
      return `${name} ${series.path}: between ${measured(unit, min)} and ${measured(unit, max)}`;
    });
    return view.root;
  }
}

function keyOf(t: Topic): string {
  return t.event.key || t.name.slice(t.event.poll.length + 1);
}

function text(s: string): Cell {
  return { text: s, title: "", kind: "other" };
}
