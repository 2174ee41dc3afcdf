import type { Cell } from "../outline.ts";
import { el, setAttr, setData, setName, setText } from "./dom.ts";

/** A line of a table: cells of text, or elements that look after themselves. */
export interface Line {
  cells: (Cell | Element)[];
  muted?: boolean;
}

/** A table that is patched in place, so that a selection or a focus survives. */
export class Table {
  readonly root = el("div", "table");
  private readonly head = el("tr");
  private readonly body = el("tbody");

  constructor() {
    // What scrolls must be reachable by keyboard.
    this.root.tabIndex = 0;
    this.root.setAttribute("role", "group");
    const table = el("table");
    const thead = el("thead");
    thead.append(this.head);
    table.append(thead, this.body);
    this.root.append(table);
  }

  update(name: string, columns: string[], lines: Line[]): void {
    setAttr(this.root, "aria-label", name);
    fit(this.head, columns.length, () => {
      const th = el("th");
      th.scope = "col";
      return th;
    });
    for (const [i, c] of columns.entries()) setName(this.head.children[i] as Element, c);
    fit(this.body, lines.length, () => el("tr"));
    for (const [i, line] of lines.entries()) this.fill(this.body.children[i] as HTMLElement, line);
  }

  private fill(tr: HTMLElement, line: Line): void {
    setData(tr, "muted", String(line.muted ?? false));
    fit(tr, line.cells.length, () => el("td"));
    for (const [i, cell] of line.cells.entries()) {
      const td = tr.children[i] as HTMLElement;
      if (cell instanceof Element) {
        if (td.firstChild !== cell) td.replaceChildren(cell);
        setData(td, "kind", "element");
        continue;
      }
      setText(td, cell.text);
      setAttr(td, "title", cell.title);
      setData(td, "kind", cell.kind);
    }
  }
}

/** Gives the element exactly n children. */
function fit(parent: Element, n: number, make: () => Element): void {
  while (parent.childElementCount > n) parent.lastElementChild?.remove();
  while (parent.childElementCount < n) parent.append(make());
}
