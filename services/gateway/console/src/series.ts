import type { NumericLeaf } from "./numbers.ts";

/** How many points of a number are kept. */
export const MAX_POINTS = 120;

/** Below this many events the choice of numbers may still change. */
const SETTLED = 20;

/** A number at a local time. */
export interface Point {
  t: number;
  v: number;
}

/** The history of one number of a topic's value. */
export class Series {
  readonly points: Point[] = [];
  private varied = false;
  private onlyGrows = true;

  constructor(readonly path: string) {}

  add(p: Point): void {
    const last = this.points.at(-1);
    if (last) {
      if (p.v !== last.v) this.varied = true;
      if (p.v < last.v) this.onlyGrows = false;
    }
    this.points.push({ t: Math.max(p.t, last?.t ?? p.t), v: p.v });
    if (this.points.length > MAX_POINTS) this.points.shift();
  }

  /**
   * How much there is to see: 3 it moves, 2 it moves and is one of a row without
   * names, 1 it only grows, 0 nothing.
   */
  get interest(): number {
    if (!this.varied) return 0;
    if (this.onlyGrows) return 1;
    return /\[[0-9]+\]$/.test(this.path) ? 2 : 3;
  }
}

/** The histories of a topic's numbers, and the choice of which to show. */
export class SeriesSet {
  private readonly byPath = new Map<string, Series>();
  private picked: Series[] = [];
  private events = 0;

  constructor(
    private readonly maxPaths: number,
    private readonly maxShown: number,
  ) {}

  /** Adds the numbers of a new value. One that is not in it is forgotten. */
  add(leaves: NumericLeaf[], t: number): void {
    const paths = new Set(leaves.map((l) => l.path));
    for (const path of this.byPath.keys()) if (!paths.has(path)) this.byPath.delete(path);
    this.picked = this.picked.filter((s) => paths.has(s.path));
    for (const { path, value } of leaves) {
      let s = this.byPath.get(path);
      if (!s) {
        if (this.byPath.size >= this.maxPaths) continue;
        this.byPath.set(path, (s = new Series(path)));
      }
      s.add({ t, v: value });
    }
    this.events++;
    // A choice that is complete and settled stays, so that lines do not jump.
    if (this.picked.length < this.maxShown || this.events <= SETTLED) this.pick();
  }

  /** The numbers worth a line: those that change, in the order of the value. */
  get shown(): readonly Series[] {
    return this.picked;
  }

  private pick(): void {
    const all = [...this.byPath.values()];
    const best = all
      .filter((s) => s.interest > 0)
      .sort((a, b) => b.interest - a.interest)
      .slice(0, this.maxShown);
    this.picked = all.filter((s) => best.includes(s));
  }
}
