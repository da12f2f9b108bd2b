// @ts-check
/** A live log: the stored end, then each line as it comes. Lines are text only, never markup. */

import { make, socketUrl } from "./dom.js";

const LINES_KEPT = 5000;
const RETRY_MS = 1500;
const NO_RETRY = [4401, 4404];

export class LogView {
  /** @param {HTMLElement} element @param {(state: string) => void} [onState] */
  constructor(element, onState = () => {}) {
    this.element = element;
    this.onState = onState;
    this.last = 0;
    this.first = 0;
    this.filter = "";
    this.paused = false;
    this.marked = "";
    this.hasEarlier = false;
    /** @type {WebSocket | null} */
    this.socket = null;
    this.closed = false;
    /** @type {[number, string][]} */
    this.waiting = [];
  }

  /** @param {string} uid */
  open(uid) {
    this.uid = uid;
    this.closed = false;
    this.connect();
  }

  close() {
    this.closed = true;
    this.socket?.close();
  }

  connect() {
    const socket = new WebSocket(socketUrl(`/ws/logs/${this.uid}/`));
    this.socket = socket;
    socket.onmessage = (event) => this.received(JSON.parse(event.data));
    socket.onclose = (event) => {
      if (this.closed) return;
      this.onState(event.code === 4404 ? "This log does not exist, or you may not see it." : "Disconnected, trying again …");
      if (!NO_RETRY.includes(event.code)) setTimeout(() => { if (!this.closed) this.connect(); }, RETRY_MS);
    };
  }

  /** Says at the top that what was before is gone. */
  markCut() {
    this.element.prepend(make("div", "log-line is-own", "Earlier lines are no longer kept."));
  }

  /** @param {{lines: [number, string][], has_earlier?: boolean, is_cut?: boolean, is_live?: boolean}} message */
  received(message) {
    if (message.has_earlier !== undefined) {
      this.hasEarlier = message.has_earlier;
      this.onState(message.is_live ? "Live" : "Ended; this is the whole stored log.");
    }
    const fresh = message.lines.filter(([position]) => position > this.last);
    if (fresh.length) this.last = fresh[fresh.length - 1][0];
    if (this.paused) this.waiting.push(...fresh);
    else this.append(fresh);
    if (message.is_cut && fresh.length) this.markCut();
    if (!this.element.childElementCount && message.has_earlier !== undefined && !fresh.length) {
      this.element.append(make("div", "log-line is-own", "Nothing written yet."));
    }
  }

  /** @param {[number, string][]} lines */
  append(lines) {
    if (!lines.length) return;
    if (!this.first) this.element.replaceChildren();
    this.first ||= lines[0][0];
    const atEnd = this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < 40;
    this.element.append(...lines.map((line) => this.line(line)));
    while (this.element.childElementCount > LINES_KEPT) this.element.firstElementChild?.remove();
    if (atEnd) this.element.scrollTop = this.element.scrollHeight;
  }

  /** @param {[number, string][]} lines */
  prepend(lines) {
    if (!lines.length) return;
    this.first = lines[0][0];
    const height = this.element.scrollHeight;
    this.element.prepend(...lines.map((line) => this.line(line)));
    this.element.scrollTop += this.element.scrollHeight - height;
  }

  /** @param {[number, string]} line */
  line([, text]) {
    const space = text.indexOf(" ");
    const at = new Date(Number(text.slice(0, space)) * 1000);
    const rest = text.slice(space + 1);
    let className = "log-line";
    if (/\b(ERROR|FATAL|CRITICAL|Traceback)\b/.test(rest)) className += " is-error";
    else if (rest.startsWith("[slipway]")) className += " is-own";
    if (this.marked && rest.includes(this.marked)) className += " is-marked";
    const element = make("div", className);
    const time = make("time", "", at.toLocaleTimeString([], { hour12: false }));
    time.title = at.toISOString();
    element.append(time, make("span", "", rest));
    element.hidden = Boolean(this.filter) && !rest.toLowerCase().includes(this.filter);
    return element;
  }

  /** @param {string} text */
  setFilter(text) {
    this.filter = text.toLowerCase();
    this.element.classList.toggle("is-filtered", Boolean(text));
    for (const child of /** @type {HTMLElement[]} */ ([...this.element.children])) {
      child.hidden = Boolean(this.filter) && !(child.textContent || "").toLowerCase().includes(this.filter);
    }
  }

  togglePause() {
    this.paused = !this.paused;
    if (!this.paused) { this.append(this.waiting); this.waiting = []; }
    return this.paused;
  }
}
