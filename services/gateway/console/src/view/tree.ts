import type { Json } from "../json.ts";
import { MAX_ROWS, outline, type Row } from "../outline.ts";
import { button, el, setAttr, setData, setName, setText, show } from "./dom.ts";
import { Table } from "./table.ts";

/** Leaves that are seen before somebody asks for all. */
const FIRST = 8;

interface View {
  kind: Row["kind"];
  root: HTMLElement;
  label: HTMLElement;
  value: HTMLElement | undefined;
  table: Table | undefined;
}

/** A value on the page: keys and values, patched in place. */
export class Tree {
  readonly root = el("div", "tree");
  private readonly list = el("div", "rows");
  private readonly more: HTMLButtonElement;
  private readonly rows: View[] = [];
  private expanded = false;
  private value: Json = null;

  constructor() {
    this.more = button("link", "", () => {
      this.expanded = !this.expanded;
      this.update(this.value);
    });
    this.root.append(this.list, this.more);
  }

  update(value: Json): void {
    this.value = value;
    const { rows, hidden } = outline(value, this.expanded ? MAX_ROWS : FIRST);
    for (const [i, row] of rows.entries()) this.put(i, row);
    for (const gone of this.rows.splice(rows.length)) gone.root.remove();
    show(this.more, hidden > 0 || this.expanded);
    setAttr(this.more, "aria-expanded", String(this.expanded));
    if (!this.expanded) setText(this.more, `Show all (${hidden} more)`);
    else setText(this.more, hidden > 0 ? `Show less (${hidden} more are not shown)` : "Show less");
  }

  private put(i: number, row: Row): void {
    let view = this.rows[i];
    if (view?.kind !== row.kind) {
      const made = make(row.kind);
      if (view) view.root.replaceWith(made.root);
      else this.list.append(made.root);
      this.rows[i] = view = made;
    }
    setName(view.label, row.label);
    setData(view.root, "depth", String(Math.min(row.depth, 5)));
    if (row.kind === "leaf" && view.value) {
      setText(view.value, row.cell.text);
      setAttr(view.value, "title", row.cell.title);
      setData(view.value, "kind", row.cell.kind);
    }
    if (row.kind === "table" && view.table) {
      show(view.label, row.label !== "");
      view.table.update(row.label || "values", row.columns, row.cells.map((cells) => ({ cells })));
    }
  }
}

function make(kind: Row["kind"]): View {
  const root = el("div", `row ${kind}`);
  const label = el("span", "label");
  root.append(label);
  const value = kind === "leaf" ? el("span", "value") : undefined;
  const table = kind === "table" ? new Table() : undefined;
  if (value) root.append(value);
  if (table) root.append(table.root);
  return { kind, root, label, value, table };
}
