// @ts-check
/** A request through the console's relay: submitted by POST, its answer's frames come over a websocket. */

import { socketUrl } from "./dom.js";

export class RelayError extends Error {
  /** @param {string} message @param {string} [field] */
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

/** Hand a request over; what the console says of it, its `id` first of all. @param {string} url @param {string} csrf @param {object} request */
export async function submit(url, csrf, request) {
  const headers = { "Content-Type": "application/json", "X-CSRFToken": csrf };
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(request) }).catch(() => null);
  if (!response) throw new RelayError("The console does not answer. Try again in a few seconds.");
  const reply = await response.json().catch(() => ({ error: `The console answered ${response.status}. Reload the page and try again.` }));
  if (!response.ok) throw new RelayError(reply.error || "The request was refused.", reply.field);
  return /** @type {{id: string, page: string, state: string}} */ (reply);
}

/** Follow a test's frames; `onEnd(true)` when the last one came. @param {string} id
 *  @param {(frame: any) => void} onFrame @param {(whole: boolean) => void} onEnd */
export function follow(id, onFrame, onEnd) {
  let ended = false;
  const socket = new WebSocket(socketUrl(`/ws/tests/${id}/`));
  socket.onmessage = (event) => {
    const frame = JSON.parse(event.data);
    onFrame(frame);
    ended = ["done", "error", "cancelled"].includes(frame.kind);
  };
  socket.onclose = () => onEnd(ended);
  return socket;
}

/** Tell the relay to stop, as soon as it can be told. @param {WebSocket} socket */
export function cancel(socket) {
  const tell = () => socket.send(JSON.stringify({ cancel: true }));
  if (socket.readyState === WebSocket.OPEN) tell();
  else if (socket.readyState === WebSocket.CONNECTING) socket.addEventListener("open", tell, { once: true });
}

/** The bytes of a chunk's frame. @param {{data: string}} frame */
export const bytesOf = (frame) => Uint8Array.from(atob(frame.data), (character) => character.charCodeAt(0));

/** Whole server-sent events of `text`, each one's data; and the rest. @param {string} text @returns {[string[], string]} */
export function events(text) {
  const parts = text.split(/\r?\n\r?\n/);
  const rest = parts.pop() ?? "";
  const data = parts.map((event) => event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n"));
  return [data.filter((item) => item && item !== "[DONE]"), rest];
}
