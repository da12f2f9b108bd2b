// @ts-check
/** A chat through the relay. Everything that comes from outside is text, never markup. */

import { find, findAll, make } from "./dom.js";
import { bytesOf, cancel, events, follow, submit } from "./relay.js";

/** @typedef {{role: string, content: string}} Message */

export class Playground {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    this.form = /** @type {HTMLFormElement} */ (find("#chat-form", root));
    this.chat = /** @type {HTMLElement} */ (find("#chat", root));
    this.error = /** @type {HTMLElement} */ (find("#chat-error", root));
    /** @type {Message[]} */
    this.messages = [];
    // Which chat this is: what comes for one before, or was asked to stop, is left alone.
    this.generation = 0;
    /** @type {Reply | null} */
    this.reply = null;
    this.busy = this.stopped = false;
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    this.form.addEventListener("input", () => this.showCode());
    this.input("text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); this.form.requestSubmit(); }
    });
    find("#chat-stop", root)?.addEventListener("click", () => { this.stopped = true; this.reply?.cancel(); });
    find("#chat-clear", root)?.addEventListener("click", () => this.clear());
    // Until here the button rests: without this script the form would load the page anew.
    this.setBusy(false);
    this.showCode();
  }

  /** @param {string} name */
  input(name) {
    return /** @type {HTMLInputElement} */ (this.form.elements.namedItem(name));
  }

  clear() {
    this.generation += 1;
    this.reply?.abandon();
    this.reply = null;
    this.messages = [];
    this.chat.replaceChildren(make("p", "text-secondary", "Say something."));
    this.error.hidden = true;
    /** @type {HTMLElement} */ (find("#chat-timing", this.root)).hidden = true;
    this.setBusy(false);
    this.showCode();
    this.input("text").focus();
  }

  /** The request's body, with what is typed as its last message. @param {string} [typed] */
  body(typed) {
    const system = this.input("system").value.trim();
    const messages = [...(system ? [{ role: "system", content: system }] : []), ...this.messages];
    if (typed) messages.push({ role: "user", content: typed });
    /** @type {Record<string, unknown>} */
    const body = { model: this.root.dataset.model, messages };
    for (const name of ["temperature", "top_p", "max_tokens"]) if (this.input(name).value !== "") body[name] = Number(this.input(name).value);
    if (this.input("stream").value) Object.assign(body, { stream: true, stream_options: { include_usage: true } });
    return body;
  }

  showCode() {
    const code = find("#chat-code", this.root);
    if (code) code.textContent = JSON.stringify(this.body(this.input("text").value.trim() || undefined), null, 2);
  }

  /** @param {boolean} busy */
  setBusy(busy) {
    this.busy = busy;
    /** @type {HTMLButtonElement} */ (find("#chat-send", this.root)).disabled = busy;
    /** @type {HTMLButtonElement} */ (find("#chat-stop", this.root)).disabled = !busy;
  }

  /** @param {string} role @param {string} text */
  bubble(role, text) {
    if (!this.messages.length) this.chat.replaceChildren();
    const element = make("div", `chat-bubble-own is-${role}`, text);
    this.chat.append(element);
    this.chat.scrollTop = this.chat.scrollHeight;
    return element;
  }

  async send() {
    const text = this.input("text").value.trim();
    if (!text || this.busy) return;
    this.setBusy(true);
    this.stopped = false;
    this.error.hidden = true;
    const generation = this.generation;
    const body = this.body(text);
    this.bubble("user", text);
    this.messages.push({ role: "user", content: text });
    this.input("text").value = "";
    const request = { method: "POST", path: "/v1/chat/completions", headers: "", content_type: "application/json", body: JSON.stringify(body) };
    try {
      const { id } = await submit(this.root.dataset.sendUrl || "", this.root.dataset.csrf || "", request);
      const reply = new Reply(this, id, generation === this.generation);
      if (generation !== this.generation) return;
      this.reply = reply;
      if (this.stopped) reply.cancel();
    } catch (error) {
      if (generation === this.generation) this.failed(error instanceof Error ? error.message : String(error), text);
    }
  }

  /** The question goes back into the field, so that it can be sent again. @param {string} message @param {string} [question] */
  failed(message, question) {
    this.error.hidden = false;
    this.error.textContent = message;
    const last = this.messages.at(-1);
    if (last?.role === "user") {
      this.messages.pop();
      findAll(".is-user", this.chat).at(-1)?.remove();
      // What was typed meanwhile is worth more.
      if (!this.input("text").value.trim()) this.input("text").value = question ?? last.content;
    }
    this.setBusy(false);
    this.showCode();
  }

  /** @param {string} text */
  answered(text) {
    this.messages.push({ role: "assistant", content: text });
    this.setBusy(false);
    this.showCode();
    this.input("text").focus();
  }

  /** @param {string} name @param {string} value */
  time(name, value) {
    const field = find(`[data-time=${name}]`, this.root);
    if (field) field.textContent = value;
  }
}

/** One answer while it comes. */
class Reply {
  /** @param {Playground} playground @param {string} id @param {boolean} wanted False: the chat has gone; it is only stopped. */
  constructor(playground, id, wanted) {
    this.playground = playground;
    this.abandoned = !wanted;
    this.decoder = new TextDecoder();
    this.status = 0;
    this.isStream = this.failed = false;
    this.buffer = this.raw = this.text = "";
    this.firstAt = this.lastAt = 0;
    this.pieces = 0;
    /** @type {{prompt_tokens?: number, completion_tokens?: number} | null} */
    this.usage = null;
    this.socket = follow(id, (frame) => this.take(frame), (whole) => { if (!whole) this.fail("The connection to the console was lost; the request was cancelled."); });
    this.bubble = make("div");
    if (this.abandoned) { this.cancel(); return; }
    this.bubble = playground.bubble("assistant", "");
    this.bubble.classList.add("is-waiting");
    /** @type {HTMLElement} */ (find("#chat-timing", playground.root)).hidden = false;
    for (const name of ["first", "rate", "tokens"]) playground.time(name, "–");
    playground.time("id", id);
  }

  cancel() {
    cancel(this.socket);
  }

  /** The chat has gone: stop it, and say nothing of it. */
  abandon() {
    this.abandoned = true;
    this.cancel();
  }

  /** @param {any} frame */
  take(frame) {
    if (this.abandoned) return;
    if (frame.kind === "head") {
      this.status = frame.status;
      const type = frame.headers.find((/** @type {[string, string]} */ [name]) => name.toLowerCase() === "content-type")?.[1] ?? "";
      this.isStream = frame.status < 300 && type.startsWith("text/event-stream");
    } else if (frame.kind === "chunk") {
      const text = this.decoder.decode(bytesOf(frame), { stream: true });
      if (this.isStream) this.read(text, frame.at);
      else this.raw += text;
    } else if (frame.kind === "done") {
      this.done(frame.total);
    } else if (frame.kind === "error") {
      this.fail(frame.message);
    } else if (frame.kind === "cancelled") {
      if (this.text) this.done(frame.total);
      else this.fail("Stopped before the first token.");
    }
  }

  /** @param {string} text @param {number} at */
  read(text, at) {
    const [found, rest] = events(this.buffer + text);
    this.buffer = rest;
    for (const data of found) {
      try {
        const event = JSON.parse(data);
        if (event.error) this.fail(event.error.message || data);
        if (event.usage) this.usage = event.usage;
        const delta = event.choices?.[0]?.delta;
        this.show(delta?.content ?? delta?.reasoning_content ?? "", at);
      } catch {
        this.show(data, at);
      }
    }
  }

  /** @param {string} piece @param {number} at */
  show(piece, at) {
    if (!piece) return;
    if (!this.firstAt && this.isStream) {
      this.firstAt = at;
      this.playground.time("first", `${Math.round(at * 1000).toLocaleString()} ms`);
    }
    this.bubble.classList.remove("is-waiting");
    this.lastAt = at;
    this.pieces += 1;
    this.text += piece;
    this.bubble.append(piece);
    this.playground.chat.scrollTop = this.playground.chat.scrollHeight;
  }

  /** @param {number} total */
  done(total) {
    if (this.failed) return;
    if (!this.isStream && !this.readWhole(total)) return;
    this.bubble.classList.remove("is-waiting");
    const output = this.usage?.completion_tokens ?? this.pieces;
    const spent = this.isStream ? this.lastAt - this.firstAt : total;
    if (output > 1 && spent > 0) this.playground.time("rate", ((this.isStream ? output - 1 : output) / spent).toFixed(1));
    this.playground.time("tokens", this.usage ? `${this.usage.prompt_tokens ?? "–"}, ${this.usage.completion_tokens ?? "–"}` : `–, about ${output}`);
    this.playground.answered(this.text);
  }

  /** An answer that came whole, or an error. @param {number} total */
  readWhole(total) {
    let value = null;
    try { value = JSON.parse(this.raw); } catch { /* told below */ }
    if (this.status >= 300 || value?.choices === undefined) {
      const told = value?.error?.message ?? value?.message ?? this.raw.slice(0, 300);
      this.fail(`${this.status}: ${told || "an empty answer"}`);
      return false;
    }
    this.usage = value.usage ?? null;
    this.show(value.choices[0]?.message?.content ?? "(no text)", total);
    return true;
  }

  /** @param {string} message */
  fail(message) {
    if (this.failed || this.abandoned) return;
    this.failed = true;
    this.bubble.remove();
    this.playground.failed(message);
  }
}
