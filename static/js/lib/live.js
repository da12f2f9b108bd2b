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

const subjects = () => [...new Set(findAll("[data-live]").flatMap((element) => (element.dataset.live || "").split(" ")))];

/** @param {string} subject */
const announce = (subject) => document.body.dispatchEvent(new CustomEvent(`${subject.replace(".", "-")}-changed`));

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
    if (event.code === SIGN_IN_AGAIN) return;
    setTimeout(connect, RETRY_MS[Math.min(attempts++, RETRY_MS.length - 1)]);
  };
}

export function startLive() {
  connect();
  setInterval(() => { if (!socket || socket.readyState !== WebSocket.OPEN) announceAll(); }, POLL_MS);
  document.body.addEventListener("htmx:afterSettle", subscribe);
}
