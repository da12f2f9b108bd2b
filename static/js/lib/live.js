// @ts-check
/** Nudges from the server: "this object changed, read it again". Elements with data-live="deployment.12" are read
 *  again through htmx, which listens for the event "deployment-12-changed" on the body. A gap in the numbers or a new
 *  connection refreshes everything; without a socket the page polls. */

import { findAll, socketUrl } from "./dom.js";

const POLL_MS = 3000;
const RETRY_MS = [500, 1000, 2000, 5000];
const SIGN_IN_AGAIN = 4401;
/** @type {WebSocket | null} */
let socket = null;
let attempts = 0;
/** @type {Map<string, number>} */
const lastSeq = new Map();

/** When each subject was last said to have changed, and when each request for a part of the page left.
 *  @type {Map<string, number>} */
const announcedAt = new Map();
/** @type {WeakMap<XMLHttpRequest, number>} */
const sentAt = new WeakMap();

const subjects = () => [...new Set(findAll("[data-live]").flatMap((element) => (element.dataset.live || "").split(" ")))];

/** @param {string} subject */
function announce(subject) {
  announcedAt.set(subject, performance.now());
  document.body.dispatchEvent(new CustomEvent(`${subject.replace(".", "-")}-changed`));
}

/** What changed while its part was being read is read again: the element that would have asked for it is gone.
 *  @param {CustomEvent} event */
function catchUp(event) {
  const sent = sentAt.get(event.detail.xhr);
  const element = /** @type {HTMLElement} */ (event.detail.elt);
  if (sent === undefined || !element.dataset) return;
  (element.dataset.live || "").split(" ").filter((subject) => (announcedAt.get(subject) || 0) > sent).forEach(announce);
}

/** A part that is replaced between pressing and releasing takes the click with it: it stays until the release, and is
 *  read again then. */
let pressing = false;
/** @type {Set<string>} */
const heldBack = new Set();

/** @param {CustomEvent} event */
function holdBack(event) {
  const element = /** @type {HTMLElement} */ (event.detail.elt);
  // What is polled comes again by itself.
  const comesAgain = element.dataset?.live || element.getAttribute?.("hx-trigger")?.includes("every ");
  if (!pressing || !comesAgain) return;
  event.detail.shouldSwap = false;
  (element.dataset.live || "").split(" ").filter(Boolean).forEach((subject) => heldBack.add(subject));
}

function released() {
  // The click comes after the release, in a turn of its own.
  setTimeout(() => {
    pressing = false;
    const subjects = [...heldBack];
    heldBack.clear();
    subjects.forEach(announce);
  });
}

const announceAll = () => subjects().forEach(announce);

function subscribe() {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ subscribe: subjects() }));
}

/** @param {MessageEvent} event */
function received(event) {
  const message = JSON.parse(event.data);
  if (message.type !== "changed") return;
  const subject = `${message.kind}.${message.id}`;
  const last = lastSeq.get(subject);
  lastSeq.set(subject, message.seq);
  if (last !== undefined && message.seq !== last + 1) announceAll();
  else announce(subject);
}

function connect() {
  if (!subjects().length) return;
  socket = new WebSocket(socketUrl("/ws/live/"));
  socket.onopen = () => {
    if (attempts) announceAll();
    attempts = 0;
    subscribe();
  };
  socket.onmessage = received;
  socket.onclose = (event) => {
    socket = null;
    // The next part that is read sends the page to the sign-in.
    if (event.code === SIGN_IN_AGAIN) { announceAll(); return; }
    setTimeout(connect, RETRY_MS[Math.min(attempts++, RETRY_MS.length - 1)]);
  };
}

export function startLive() {
  connect();
  setInterval(() => { if (!socket || socket.readyState !== WebSocket.OPEN) announceAll(); }, POLL_MS);
  document.body.addEventListener("htmx:beforeSend", (event) => sentAt.set(/** @type {CustomEvent} */ (event).detail.xhr, performance.now()));
  document.body.addEventListener("htmx:beforeSwap", (event) => holdBack(/** @type {CustomEvent} */ (event)));
  document.addEventListener("pointerdown", (event) => { if (event.button === 0) pressing = true; }, true);
  document.addEventListener("pointerup", released, true);
  document.addEventListener("pointercancel", released, true);
  document.body.addEventListener("htmx:afterSettle", (event) => {
    subscribe();
    catchUp(/** @type {CustomEvent} */ (event));
  });
}
