import { clockTime } from "../format.ts";
import type { LogEntry } from "../store.ts";
import { el, setText, show } from "./dom.ts";

/** Lines of the log that are kept. */
const MAX_LINES = 50;

/** Entries that say the same within so many milliseconds are one line. */
const TOGETHER_MS = 2_000;

/** Subjects that a line names to who asks. */
const MAX_NAMES = 30;

/** A line that more may be said on: a gateway that loses NATS says it of every poll. */
interface Line {
  wall: number;
  root: HTMLElement;
  subject: HTMLElement;
  names: string[];
  count: number;
}

/** What happened, newest first. */
export class LogView {
  private readonly recent = new Map<string, Line>();

  constructor(
    private readonly list: HTMLElement,
    private readonly empty: HTMLElement,
  ) {}

  add(e: LogEntry): void {
    if (this.join(e)) return;
    const root = el("li", "log-line");
    root.dataset["kind"] = e.kind;
    const time = el("time", "", clockTime(e.wall));
    time.dateTime = new Date(e.wall).toISOString();
    const subject = el("b", "", e.subject);
    root.append(time, subject, el("span", "", e.text));
    if (e.detail) root.title = e.detail;
    this.list.prepend(root);
    while (this.list.childElementCount > MAX_LINES) this.list.lastElementChild?.remove();
    show(this.empty, false);
    if (e.kind === "fresh" || e.kind === "stale") {
      this.recent.set(`${e.kind} ${e.text}`, { wall: e.wall, root, subject, names: [e.subject], count: 1 });
    }
  }

  /** Says it on a line that says the same of others, if there is one. */
  private join(e: LogEntry): boolean {
    for (const [said, line] of this.recent) {
      if (Math.abs(e.wall - line.wall) > TOGETHER_MS) this.recent.delete(said);
    }
    const line = this.recent.get(`${e.kind} ${e.text}`);
    if (!line || line.names.includes(e.subject)) return false;
    line.count++;
    if (line.names.length < MAX_NAMES) line.names.push(e.subject);
    const beyond = line.count - line.names.length;
    setText(line.subject, `${line.names[0]} and ${line.count - 1} more`);
    line.root.title = line.names.join("\n") + (beyond > 0 ? `\nand ${beyond} more` : "");
    return true;
  }
}
