// @ts-check
/** Online Testing: compose, send through the relay, watch the frames, with the log and the charts beside. */

import { copy, find, findAll } from "./lib/dom.js";
import { Answer } from "./lib/answer.js";
import { Charts } from "./lib/charts.js";
import { LogView } from "./lib/log_view.js";
import { runQueued } from "./lib/queued_run.js";
import { RelayError, cancel, follow, submit } from "./lib/relay.js";

const tester = /** @type {HTMLElement} */ (find("#tester"));
const form = /** @type {HTMLFormElement} */ (find("#test-form"));
const sendButton = /** @type {HTMLButtonElement} */ (find("#test-send"));
const cancelButton = /** @type {HTMLButtonElement} */ (find("#test-cancel"));
const answer = new Answer();
/** @type {Charts | null} */
let charts = null;
/** @type {LogView | null} */
let tail = null;
/** Of the request that is handed over or runs: Cancel ends it at whatever point it is. @type {AbortController | null} */
let running = null;
const asyncSwitch = /** @type {HTMLInputElement} */ (find("#test-async"));
const ASYNC_HEADERS = [["priority", "X-Slipway-Async-Priority"], ["queue_s", "X-Slipway-Async-Max-Queue-Seconds"], ["retries", "X-Slipway-Async-Retries"], ["webhook", "X-Slipway-Async-Webhook"]];
const isAsync = () => asyncSwitch.checked;

/** @param {string} name */
const value = (name) => /** @type {HTMLInputElement} */ (form.elements.namedItem(name)).value;

/** @param {string} name @param {string} text */
const set = (name, text) => { /** @type {HTMLInputElement} */ (form.elements.namedItem(name)).value = text; };

function pathWithParameters() {
  const lines = value("parameters").split("\n").map((line) => line.trim()).filter(Boolean);
  const pairs = lines.map((line) => {
    const [name, ...rest] = line.split("=");
    return `${encodeURIComponent(name.trim())}=${encodeURIComponent(rest.join("=").trim())}`;
  });
  const path = value("path").trim();
  return pairs.length ? `${path}${path.includes("?") ? "&" : "?"}${pairs.join("&")}` : path;
}

const hasBody = () => !["GET", "HEAD"].includes(value("method")) || value("body").trim() !== "";

function composed() {
  const body = hasBody() ? value("body") : "";
  return { method: value("method"), path: pathWithParameters(), headers: value("headers"), content_type: body ? value("content_type") : "", body };
}

/** @param {string} text */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function asCurl() {
  const request = composed();
  const parts = ["curl", "-N", "-X", request.method, quoted(tester.dataset.address + request.path)];
  if (request.content_type) parts.push("-H", quoted(`Content-Type: ${request.content_type}`));
  for (const line of request.headers.split("\n").filter((text) => text.trim())) parts.push("-H", quoted(line.trim()));
  if (isAsync()) {
    parts.push("-H", '"Authorization: Bearer $API_KEY"', "-H", "'X-Slipway-Async: true'");
    for (const [name, header] of ASYNC_HEADERS) if (value(name)) parts.push("-H", quoted(`${header}: ${value(name)}`));
  }
  if (request.body) parts.push("--data-raw", quoted(request.body));
  return parts.join(" ");
}

/** @param {string | undefined} field @param {string} message */
function showError(field, message) {
  const slot = field ? find(`[data-error=${field}]`) : null;
  const input = field ? form.elements.namedItem(field) : null;
  if (slot && input instanceof HTMLElement) {
    input.closest("details")?.setAttribute("open", "");
    input.classList.add("is-invalid");
    slot.textContent = message;
    input.focus();
  } else {
    answer.fail(message);
  }
}

function clearErrors() {
  for (const element of findAll(".is-invalid", form)) element.classList.remove("is-invalid");
}

/** @param {boolean} running */
function setRunning(running) {
  sendButton.disabled = running;
  cancelButton.disabled = !running;
}

/** @param {SubmitEvent} event */
async function send(event) {
  event.preventDefault();
  clearErrors();
  answer.reset();
  running = new AbortController();
  const unwanted = running.signal;
  setRunning(true);
  try {
    if (isAsync()) await queue(unwanted);
    else show((await submit(tester.dataset.sendUrl || "", tester.dataset.csrf || "", composed())).id, unwanted);
  } catch (error) {
    setRunning(false);
    showError(error instanceof RelayError ? error.field : undefined, error instanceof Error ? error.message : String(error));
  }
}

/** Into the queue; this page follows it until it has ended. @param {AbortSignal} unwanted */
async function queue(unwanted) {
  const options = { priority: value("priority"), queue_s: value("queue_s"), retries: value("retries"), webhook: value("webhook") };
  const request = { ...composed(), ...options };
  try {
    await runQueued(tester.dataset.asyncUrl || "", tester.dataset.csrf || "", request, (id, told) => {
      if (tail) tail.marked = id;
      answer.queued(id, told);
    }, unwanted);
  } finally {
    setRunning(false);
  }
}

/** @param {string} id @param {AbortSignal} unwanted */
function show(id, unwanted) {
  answer.started(id);
  if (tail) tail.marked = id;
  const socket = follow(id, (frame) => {
    if (frame.kind === "head") { answer.head(frame); showTail(frame.instance); }
    else if (frame.kind === "chunk") answer.chunk(frame);
    else if (frame.kind === "done") { answer.done(frame); charts?.mark(new Date(frame.ended * 1000), "your request"); }
    else if (frame.kind === "error") answer.fail(frame.message);
    else if (frame.kind === "cancelled") answer.cancelled(frame.total);
  }, (whole) => {
    setRunning(false);
    if (!whole) answer.fail("The connection to the console was lost; the request was cancelled.");
  });
  if (unwanted.aborted) cancel(socket);
  else unwanted.addEventListener("abort", () => cancel(socket), { once: true });
}

/** The log of the instance that answers. @param {string} instance */
function showTail(instance) {
  const select = /** @type {HTMLSelectElement | null} */ (find("#tail-instance"));
  if (!select || select.value === instance || !find(`option[value="${CSS.escape(instance)}"]`, select)) return;
  select.value = instance;
  openTail();
}

/** @param {number} index */
function useExample(index) {
  const example = JSON.parse(find("#example-data")?.textContent || "[]")[index];
  set("method", example.method);
  set("path", example.path);
  set("body", example.body);
  set("content_type", "application/json");
  clearErrors();
  showUrl();
}

function showUrl() {
  const element = find("#test-url");
  if (element) element.textContent = `${tester.dataset.address}${pathWithParameters()}`;
}

function openTail() {
  const element = find("#tail");
  const select = /** @type {HTMLSelectElement | null} */ (find("#tail-instance"));
  if (!element || !select?.value) return;
  const marked = tail?.marked ?? "";
  tail?.close();
  element.replaceChildren();
  tail = new LogView(element);
  tail.marked = marked;
  tail.open(select.value);
}

form.addEventListener("submit", send);
form.addEventListener("input", showUrl);
cancelButton.addEventListener("click", () => running?.abort());
asyncSwitch.addEventListener("change", () => { /** @type {HTMLElement} */ (find("#test-async-options")).hidden = !isAsync(); });
find("#test-curl")?.addEventListener("click", (event) => copy(/** @type {HTMLElement} */ (event.target), asCurl()));
find("#tail-instance")?.addEventListener("change", openTail);
for (const button of findAll("[data-example]")) button.addEventListener("click", () => useExample(Number(button.dataset.example)));
if (find("[data-example]")) useExample(0);
showUrl();
openTail();
document.body.addEventListener("htmx:afterSettle", () => {
  const frame = find("[data-charts]");
  if (charts || !frame) return;
  charts = new Charts(frame, () => new URLSearchParams({ range: "5m" }));
  charts.start();
});
