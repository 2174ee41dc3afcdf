import type { Poll, Store } from "../store.ts";
import { Card } from "./card.ts";
import { show } from "./dom.ts";
import { Masonry } from "./masonry.ts";

/** Cards out of sight that are brought up to date per tick. */
const UNSEEN_PER_TICK = 20;

/**
 * The cards, in the order of their names. What changes is collected and written
 * once per animation frame: how far values can be trusted on every card, the
 * values where they can be seen, and the others a few at a time.
 */
export class Grid {
  private readonly cards = new Map<string, Card>();
  private readonly byElement = new WeakMap<Element, Card>();
  private readonly order: string[] = [];
  /** Cards whose verdict, and cards whose values, are not written yet. */
  private readonly unjudged = new Set<Card>();
  private readonly dirty = new Set<Card>();
  private readonly visible = new Set<Card>();
  private readonly observer: IntersectionObserver;
  private readonly masonry = new Masonry();
  private frame = 0;
  private query = "";
  private onlyStale = false;

  constructor(
    private readonly root: HTMLElement,
    private readonly store: Store,
    private readonly onFrame: () => void,
  ) {
    this.observer = new IntersectionObserver((entries) => this.seen(entries), { rootMargin: "200px" });
  }

  /** Number of cards that the filter lets through. */
  matching = 0;

  changed(poll: Poll): void {
    const card = this.cards.get(poll.name) ?? this.add(poll);
    this.unjudged.add(card);
    this.dirty.add(card);
    this.request();
  }

  removed(poll: Poll): void {
    const card = this.cards.get(poll.name);
    if (!card) return;
    this.cards.delete(poll.name);
    this.order.splice(this.order.indexOf(poll.name), 1);
    this.unjudged.delete(card);
    this.dirty.delete(card);
    this.visible.delete(card);
    this.observer.unobserve(card.root);
    this.masonry.remove(card.root);
    card.root.remove();
    this.request();
  }

  /** Lets through polls with the words in their name, and only stale ones if asked. */
  filter(query: string, onlyStale: boolean): void {
    this.query = query.trim().toLowerCase();
    this.onlyStale = onlyStale;
    this.request();
  }

  /** Writes what time changes. */
  tick(): void {
    for (const card of this.cards.values()) card.tick();
    for (const card of this.visible) card.draw();
    let n = 0;
    for (const card of this.dirty) {
      if (n++ === UNSEEN_PER_TICK) break;
      card.update();
      this.dirty.delete(card);
    }
  }

  /** Asks for onFrame and the writing of what changed at the next frame. */
  request(): void {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.write();
      this.onFrame();
    });
  }

  private write(): void {
    this.matching = 0;
    for (const card of this.cards.values()) {
      const lets = this.lets(card.poll);
      if (lets) this.matching++;
      show(card.root, lets);
    }
    for (const card of this.unjudged) card.judge();
    this.unjudged.clear();
    for (const card of this.dirty) {
      if (!this.visible.has(card)) continue;
      card.update();
      this.dirty.delete(card);
    }
  }

  private lets(poll: Poll): boolean {
    if (this.onlyStale && !poll.verdict.stale) return false;
    return this.query === "" || this.query.split(/\s+/).every((w) => poll.name.toLowerCase().includes(w));
  }

  private seen(entries: IntersectionObserverEntry[]): void {
    for (const e of entries) {
      const card = this.byElement.get(e.target);
      if (!card) continue;
      if (e.isIntersecting) {
        this.visible.add(card);
        this.dirty.add(card);
      } else {
        this.visible.delete(card);
      }
    }
    this.request();
  }

  private add(poll: Poll): Card {
    const card = new Card(poll, this.store);
    this.cards.set(poll.name, card);
    this.byElement.set(card.root, card);
    let at = this.order.findIndex((name) => name > poll.name);
    if (at < 0) at = this.order.length;
    const before = this.cards.get(this.order[at] ?? "");
    this.order.splice(at, 0, poll.name);
    this.root.insertBefore(card.root, before?.root ?? null);
    this.observer.observe(card.root);
    this.masonry.add(card.root);
    // A card is never empty: its height decides what else is seen.
    card.judge();
    card.update();
    return card;
  }
}
