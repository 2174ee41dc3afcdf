/** Height of the grid's rows in style.css, and the space under a card, in pixels. */
const ROW = 4;
const GAP = 14;

/** Keeps cards of any height close to each other in a grid of thin rows. */
export class Masonry {
  private readonly observer = new ResizeObserver((entries) => {
    for (const e of entries) {
      const height = e.borderBoxSize[0]?.blockSize ?? 0;
      const rows = `span ${Math.ceil((height + GAP) / ROW)}`;
      const { style } = e.target as HTMLElement;
      if (style.gridRowEnd !== rows) style.gridRowEnd = rows;
    }
  });

  add(card: HTMLElement): void {
    this.observer.observe(card, { box: "border-box" });
  }

  remove(card: HTMLElement): void {
    this.observer.unobserve(card);
  }
}
