// @ts-check
/** Shows one answer: status, headers, body as it comes, timings. The body is text, never markup. */

import { find, findAll, make } from "./dom.js";
import { bytesOf, events } from "./relay.js";

const VIEWS = { text: "#test-text", raw: "#test-raw", headers: "#test-header-view" };

export class Answer {
  constructor() {
    this.text = /** @type {HTMLElement} */ (find("#test-text"));
    this.raw = /** @type {HTMLElement} */ (find("#test-raw"));
    this.status = /** @type {HTMLElement} */ (find("#test-status"));
    this.error = /** @type {HTMLElement} */ (find("#test-error"));
    for (const button of findAll("[data-view]")) button.addEventListener("click", () => this.show(button.dataset.view || "raw"));
    this.reset();
  }

  reset() {
    this.decoder = new TextDecoder();
    this.buffer = "";
    this.chunks = 0;
    this.isStream = false;
    this.isJson = false;
    this.error.hidden = true;
    this.text.textContent = this.raw.textContent = this.status.textContent = "";
    this.status.className = "ms-auto";
    find("#test-timing")?.classList.remove("is-queued");
    for (const field of findAll("[data-time]")) field.textContent = "–";
  }

  /** @param {string} name */
  show(name) {
    for (const [key, selector] of Object.entries(VIEWS)) {
      /** @type {HTMLElement} */ (find(selector)).hidden = key !== name;
      find(`[data-view=${key}]`)?.classList.toggle("active", key === name);
    }
  }

  /** @param {string} field @param {string} value */
  time(field, value) {
    const element = find(`[data-time=${field}]`);
    if (element) element.textContent = value;
  }

  /** @param {string} id */
  started(id) {
    /** @type {HTMLElement} */ (find("#test-hint")).hidden = true;
    /** @type {HTMLElement} */ (find("#test-timing")).hidden = false;
    this.status.textContent = "Waiting …";
    this.time("id", id);
  }

  /** Of a request in the queue. @param {string} id @param {any} told */
  queued(id, told) {
    this.started(id);
    find("#test-timing")?.classList.add("is-queued");
    const link = /** @type {HTMLAnchorElement} */ (make("a", "", `${told.state[0].toUpperCase()}${told.state.slice(1)}${told.status_code ? ` (${told.status_code})` : ""}`));
    link.href = told.page;
    this.status.replaceChildren(link);
    if (told.waited !== undefined && told.waited !== null) this.time("waited", milliseconds(told.waited));
    if (told.took) this.time("total", milliseconds(told.took));
    if (told.message && told.state !== "completed") this.fail(told.message);
    if (typeof told.result !== "string") return;
    /** @type {HTMLElement} */ (find("#test-views")).hidden = false;
    this.raw.textContent = told.result;
    try { this.text.textContent = JSON.stringify(JSON.parse(told.result), null, 2); } catch { this.text.textContent = told.result; }
    this.show("text");
  }

  /** @param {{status: number, reason: string, headers: [string, string][], instance: string}} frame */
  head(frame) {
    const colour = frame.status < 300 ? "green" : frame.status < 500 ? "yellow" : "red";
    this.status.className = `ms-auto badge bg-${colour}-lt`;
    this.status.textContent = `${frame.status} ${frame.reason}`;
    // As the log beside calls it, where there is one.
    this.time("instance", frame.instance ? find(`#tail-instance option[value="${CSS.escape(frame.instance)}"]`)?.textContent || frame.instance.slice(0, 8) : "–");
    const type = frame.headers.find(([name]) => name.toLowerCase() === "content-type")?.[1] ?? "";
    this.isStream = type.startsWith("text/event-stream");
    this.isJson = type.includes("json");
    const rows = frame.headers.map(([name, value]) => {
      const row = make("tr");
      row.append(make("td", "text-secondary", name), make("td", "", value));
      return row;
    });
    find("#test-header-view tbody")?.replaceChildren(...rows);
    /** @type {HTMLElement} */ (find("#test-views")).hidden = false;
    this.show(this.isStream ? "text" : "raw");
  }

  /** @param {{data: string, at: number}} frame */
  chunk(frame) {
    this.chunks += 1;
    const text = this.decoder.decode(bytesOf(frame), { stream: true });
    if (this.chunks === 1) this.time("first", milliseconds(frame.at));
    this.time("chunks", String(this.chunks));
    this.raw.append(text);
    this.buffer += text;
    if (this.isStream) this.readEvents();
    this.raw.scrollTop = this.raw.scrollHeight;
    this.text.scrollTop = this.text.scrollHeight;
  }

  /** The text of OpenAI-style events, joined as a reader would see it. */
  readEvents() {
    const [found, rest] = events(this.buffer);
    this.buffer = rest;
    for (const data of found) {
      try {
        const choice = JSON.parse(data).choices?.[0];
        this.text.append(choice?.delta?.content ?? choice?.text ?? "");
      } catch {
        this.text.append(`${data}\n`);
      }
    }
  }

  /** @param {{total: number, first_byte: number | null, bytes: number, cut: boolean}} frame */
  done(frame) {
    this.time("total", milliseconds(frame.total));
    this.time("size", `${frame.bytes.toLocaleString()} B${frame.cut ? " (cut here)" : ""}`);
    if (this.isStream) return;
    let pretty = this.buffer;
    if (this.isJson) {
      try { pretty = JSON.stringify(JSON.parse(this.buffer), null, 2); } catch { /* shown as it came */ }
    }
    this.text.textContent = pretty;
    if (!frame.bytes) this.text.textContent = this.raw.textContent = "(no body)";
    this.show("text");
  }

  /** @param {number} total Seconds. */
  cancelled(total) {
    this.time("total", milliseconds(total));
    this.status.className = "ms-auto badge bg-orange-lt";
    this.status.textContent = "Cancelled";
    this.fail(`Cancelled after ${total.toFixed(1)} s; the instance was told to stop.`);
  }

  /** @param {string} message */
  fail(message) {
    this.error.hidden = false;
    this.error.textContent = message;
    if (this.status.textContent === "Waiting …") this.status.textContent = "";
  }
}

/** @param {number} seconds */
export const milliseconds = (seconds) => (seconds < 10 ? `${Math.round(seconds * 1000).toLocaleString()} ms` : `${seconds.toFixed(1)} s`);
