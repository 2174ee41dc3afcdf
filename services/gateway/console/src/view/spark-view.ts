import type { Point } from "../series.ts";
import { sparkline, type Span } from "../spark.ts";
import { setAttr, svg } from "./dom.ts";

/** The drawing's own units; the style sheet stretches it. */
const WIDTH = 200;
const HEIGHT = 40;

/** A sparkline on the page. */
export class SparkView {
  readonly root: SVGSVGElement;
  private readonly held = svg("path", { class: "spark-held" });
  private readonly live = svg("path", { class: "spark-live" });
  private readonly end = svg("path", { class: "spark-end" });
  private readonly stale = svg("g");

  constructor(className: string) {
    this.root = svg("svg", {
      class: className,
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
    });
    this.root.append(this.stale, this.held, this.live, this.end);
  }

  /** Draws the points; describe gets the least and the greatest of what is seen. */
  update(
    points: readonly Point[],
    spans: readonly Span[],
    now: number,
    interval: number,
    describe: (min: number, max: number) => string,
  ): void {
    const s = sparkline(points, spans, { now, interval, width: WIDTH, height: HEIGHT });
    setAttr(this.live, "d", s.live);
    setAttr(this.held, "d", s.held);
    // A line of no length with round ends is a dot, and is not stretched.
    setAttr(this.end, "d", s.end ? `M${s.end.x.toFixed(1)} ${s.end.y.toFixed(1)}h0` : "");
    while (this.stale.childElementCount > s.stale.length) this.stale.lastElementChild?.remove();
    for (const [i, { x, width }] of s.stale.entries()) {
      const rect = this.stale.children[i] ?? this.stale.appendChild(svg("rect", { class: "spark-stale", y: "0", height: String(HEIGHT) }));
      setAttr(rect, "x", x.toFixed(1));
      setAttr(rect, "width", width.toFixed(1));
    }
    setAttr(this.root, "aria-label", describe(s.min, s.max));
  }
}
