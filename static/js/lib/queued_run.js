// @ts-check
/** A request of Online Testing that waits in the queue: submitted, then asked about until it has ended. */

import { submit } from "./relay.js";

const POLL_MS = 500;
const FINAL = ["completed", "failed", "cancelled", "expired"];

/** Queue a request and follow it; `onState` gets each answer about it, the last one with a final state.
 *  @param {string} url @param {string} csrf @param {object} request @param {(id: string, told: any) => void} onState
 *  @param {AbortSignal} unwanted Cancels it, wherever it is. */
export async function runQueued(url, csrf, request, onState, unwanted) {
  const reply = await submit(url, csrf, request);
  onState(reply.id, { state: "queued", page: reply.page });
  const cancel = () => fetch(`${reply.page}cancel/`, { method: "POST", headers: { "X-CSRFToken": csrf } }).catch(() => null);
  if (unwanted.aborted) cancel();
  else unwanted.addEventListener("abort", cancel, { once: true });
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    const response = await fetch(reply.state).catch(() => null);
    // The console restarts, for example: the request goes on without it.
    if (!response || response.status >= 500) continue;
    if (response.redirected) throw new Error("You are signed out. The request goes on; sign in to see it.");
    if (!response.ok) throw new Error("The request is not there any more.");
    const told = await response.json();
    onState(reply.id, { ...told, page: reply.page });
    if (FINAL.includes(told.state)) return;
  }
}
