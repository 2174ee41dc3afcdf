// Elements are made and filled here and nowhere by HTML text: a value is always
// text. The policy in console.go has the browser refuse anything else.

type Tags = HTMLElementTagNameMap;

/** A new element. */
export function el<K extends keyof Tags>(tag: K, className = "", text = ""): Tags[K] {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text) e.textContent = text;
  return e;
}

/** A new SVG element with attributes. */
export function svg<K extends keyof SVGElementTagNameMap>(tag: K, attributes: Record<string, string> = {}): SVGElementTagNameMap[K] {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  return e;
}

/** A button that does not submit anything. */
export function button(className: string, text: string, onClick: () => void): HTMLButtonElement {
  const b = el("button", className, text);
  b.type = "button";
  b.addEventListener("click", onClick);
  return b;
}

/** Sets the text, and touches nothing when it is there already. */
export function setText(e: Element, text: string): void {
  if (e.textContent !== text) e.textContent = text;
}

/** Sets the text to a name like rxBytesPerSecond, which may break where a word begins. */
export function setName(e: Element, name: string): void {
  if (e.textContent === name) return;
  const words = name.split(/(?<=[a-z0-9])(?=[A-Z])|(?<=[_.-])(?=.)/);
  e.replaceChildren(...words.flatMap((w, i) => (i === 0 ? [w] : [el("wbr"), w])));
}

/** Sets an attribute, or takes it away when the value is empty. */
export function setAttr(e: Element, name: string, value: string): void {
  if (!value) e.removeAttribute(name);
  else if (e.getAttribute(name) !== value) e.setAttribute(name, value);
}

/** Sets a data attribute that the style sheet looks at. */
export function setData(e: HTMLElement, name: string, value: string): void {
  if (e.dataset[name] !== value) e.dataset[name] = value;
}

/** Shows the element, or hides it from everybody. */
export function show(e: HTMLElement, visible: boolean): void {
  if (e.hidden === visible) e.hidden = !visible;
}

/** The element with this id in index.html. */
export function byId(id: string): HTMLElement {
  const e = document.getElementById(id);
  if (!e) throw new Error(`index.html has no #${id}`);
  return e;
}
