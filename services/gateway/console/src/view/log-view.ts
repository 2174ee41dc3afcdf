import { clockTime } from "../format.ts";
import type { LogEntry } from "../store.ts";
import { el, show } from "./dom.ts";

/** Lines of the log that are kept. */
const MAX_LINES = 50;

/** What happened, newest first. */
export class LogView {
  constructor(
    private readonly list: HTMLElement,
    private readonly empty: HTMLElement,
  ) {}

  add(e: LogEntry): void {
    const line = el("li", "log-line");
    line.dataset["kind"] = e.kind;
    const time = el("time", "", clockTime(e.wall));
    time.dateTime = new Date(e.wall).toISOString();
    line.append(time, el("b", "", e.subject), el("span", "", e.text));
    if (e.detail) line.title = e.detail;
    this.list.prepend(line);
    while (this.list.childElementCount > MAX_LINES) this.list.lastElementChild?.remove();
    show(this.empty, false);
  }
}
