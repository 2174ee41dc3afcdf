import { el } from "./dom.ts";

/** Copies text; false when the browser does not let us. */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

/** The old way: the clipboard API is absent on plain HTTP to another host. */
function copyBySelection(text: string): boolean {
  const area = el("textarea", "visually-hidden");
  area.value = text;
  document.body.append(area);
  const focused = document.activeElement;
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return done;
}

/**
 * The NATS subjects of a poll as a shell command, or an empty string when the
 * name holds anything that a topic cannot: it is going to be pasted.
 */
export function natsCommand(poll: string): string {
  if (!/^[A-Za-z0-9_%-]+(\.[A-Za-z0-9_%-]+)*$/.test(poll)) return "";
  // ">" stands for one token at least: the poll's own subject is asked for too.
  return `nats sub 'pollcast.live.${poll}' 'pollcast.live.${poll}.>'`;
}
