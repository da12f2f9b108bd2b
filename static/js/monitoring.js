// @ts-check
/** The Monitoring tab: the choice lives in the address, so that a link reopens exactly this view. */

import { find, make } from "./lib/dom.js";
import { Charts } from "./lib/charts.js";

const form = /** @type {HTMLFormElement} */ (find("#chart-question"));
const state = /** @type {HTMLElement} */ (find("#chart-state"));
const statistics = /** @type {HTMLElement} */ (find("#statistics"));
const csv = /** @type {HTMLAnchorElement} */ (find("#csv"));
const free = /** @type {HTMLElement} */ (find("#free-range"));
const back = /** @type {HTMLButtonElement} */ (find("#zoom-out"));
const place = /** @type {HTMLElement} */ (find("#moment"));
const DEFAULTS = new Map([["range", "15m"], ["instances", "each"]]);
const address = new URLSearchParams(location.search);
const field = (/** @type {string} */ name) => /** @type {HTMLInputElement} */ (form.elements.namedItem(name));

const zone = field("tz");
if (!zone.value) zone.value = (!form.dataset.problem && address.get("tz")) || Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
for (const name of Intl["supportedValuesOf"]("timeZone")) {
  const option = /** @type {HTMLOptionElement} */ (make("option"));
  option.value = name;
  find("#zones")?.append(option);
}

/** Curves whose legend entry was clicked, as "chart.curve". */
const toggled = new Set((address.get("legend") || "").split("~").filter(Boolean));
/** A free range: seconds since the epoch, or times of the chosen zone until the server has read them; null for presets.
 *  @type {[number | string, number | string] | null} */
let range = null;
/** The start of a point that was clicked and its width, in seconds; 0 for none. */
let [moment, width] = (address.get("moment") || "").split("-").map((text) => Number(text) || 0);

const isFree = () => field("range").value === "free";

function question() {
  const values = new URLSearchParams();
  for (const [key, value] of new FormData(form)) {
    if (typeof value === "string" && value && value !== DEFAULTS.get(key) && !["from", "to", "tz"].includes(key) && value !== "free") values.set(key, value);
  }
  values.set("tz", zone.value || "UTC");
  if (isFree() && range) { values.set("from", String(range[0])); values.set("to", String(range[1])); }
  return values;
}

/** @param {boolean} [push] Whether Back returns to what is shown now. */
function remember(push = false) {
  const values = question();
  if (toggled.size) values.set("legend", [...toggled].join("~"));
  if (moment) values.set("moment", `${moment}-${width || 60}`);
  csv.href = `${csv.pathname}?${question()}`;
  if (push) history.pushState(null, "", `?${values}`);
  else history.replaceState(null, "", `?${values}`);
}

/** The local time of the chosen zone, as the fields want it. @param {number} seconds */
function local(seconds) {
  const parts = new Intl.DateTimeFormat("sv-SE", { timeZone: zone.value || "UTC", dateStyle: "short", timeStyle: "medium" });
  return parts.format(new Date(seconds * 1000)).replace(" ", "T");
}

/** @param {[number | string, number | string]} wanted */
function setRange(wanted) {
  range = wanted;
  field("range").value = "free";
  showRange();
}

function showRange() {
  free.hidden = !isFree();
  for (const name of ["from", "to"]) field(name).disabled = !isFree();
  back.hidden = !isFree();
  try {
    if (isFree() && range) [field("from").value, field("to").value] = range.map((end) => (typeof end === "number" ? local(end) : end));
  } catch {
    // No such zone: the server's answer says so, and names one that there is.
  }
}

const charts = new Charts(/** @type {HTMLElement} */ (find("[data-charts]")), question, {
  onState: (text) => { state.textContent = text; },
  onPanel: (panel) => {
    note.textContent = panel.window.clock_change ? "The clocks are changed within this time; the charts show the time of its end throughout." : "";
    // This browser's own zone may be another than the chosen one: only the server's reading of a time counts.
    if (isFree() && panel.window.asked[0]) { range = panel.window.asked; showRange(); remember(); }
  },
  onStatistics: showStatistics,
  onZoom: (from, to) => {
    if (to - from < 60) { const middle = (from + to) / 2; [from, to] = [Math.floor(middle - 30), Math.ceil(middle + 30)]; }
    setRange([Math.floor(from), Math.ceil(to)]);
    remember(true);
    zooms++;
    charts.refresh();
  },
  onMoment: (at, lasts) => { moment = at; width = lasts; remember(); showMoment(); },
  onLegend: remember,
  toggled,
});
const note = /** @type {HTMLElement} */ (find("#chart-note"));

const NUMBERS = new Intl.NumberFormat("en");
/** @param {number | null | undefined} value */
const seconds = (value) => (value === null || value === undefined ? "–" : value < 1 ? `${Number((value * 1000).toPrecision(3))} ms` : `${Number(value.toPrecision(3))} s`);

/** @param {any} values */
function showStatistics(values) {
  /** @type {[string, string, string][]} */
  const items = [["Requests", NUMBERS.format(values.requests), change(values, (found) => found.requests)]];
  if (values.requests) {
    items.push(["Rate", `${Number(values.rate.toPrecision(3))}/s`, ""]);
    for (const name of ["2xx", "4xx", "5xx"]) items.push([name, NUMBERS.format(values[name]), ""]);
    items.push(["Errors", `${Number((values.error_share * 100).toPrecision(3))} %`, change(values, (found) => found.error_share)]);
    for (const [kind, label] of [["end_to_end", "End to end"], ["inference", "Inference"]]) {
      const times = values[kind];
      if (!times) continue;
      for (const name of kind === "end_to_end" ? ["avg", "p50", "p75", "p90", "p95", "p99", "max"] : ["avg", "p95"]) {
        items.push([`${label} ${name}`, seconds(times[name]), change(values, (found) => found[kind]?.[name])]);
      }
    }
    if (values.queue) items.push(["Queue p95", seconds(values.queue.p95), ""]);
    if (values.first_token) items.push(["First token p95", seconds(values.first_token.p95), ""]);
    if (values.output_tokens) items.push(["Output tokens", NUMBERS.format(values.output_tokens), change(values, (found) => found.output_tokens)]);
  }
  // In place: most of it is the same a second later.
  const shown = /** @type {HTMLElement[]} */ ([...statistics.children]);
  items.forEach(([name, value, difference], index) => {
    const item = shown[index] || statistics.appendChild(statistic());
    [name, value, difference].forEach((text, part) => { if (item.children[part].textContent !== text) item.children[part].textContent = text; });
  });
  shown.slice(items.length).forEach((item) => item.remove());
}

function statistic() {
  const item = make("div", "statistic");
  item.append(make("span", "statistic-name"), make("span", "statistic-value"), make("span", "statistic-change"));
  return item;
}

let earlier = /** @type {any} */ (null);
/** The difference to the previous period, which live updates don't carry.
 *  @param {any} values @param {(found: any) => number | null | undefined} pick */
function change(values, pick) {
  if (values.before) earlier = values.before;
  if (!field("compare").checked || !earlier) return "";
  const now = pick(values), before = pick(earlier);
  if (!before || now === null || now === undefined) return "";
  const share = (now / before - 1) * 100;
  return `${share >= 0 ? "+" : "−"}${Math.abs(share) >= 1000 ? Math.round(Math.abs(share)) : Number(Math.abs(share).toPrecision(2))} %`;
}

async function showMoment() {
  if (!moment) { place.replaceChildren(); charts.point(0); return; }
  const values = question();
  values.set("at", String(moment));
  values.set("width", String(width || 60));
  await window["htmx"].ajax("GET", `${location.pathname}moment/?${values}`, { target: "#moment", swap: "innerHTML" });
  charts.point(moment);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && moment) { moment = 0; remember(); showMoment(); }
});
place.addEventListener("click", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (target.closest("[data-close-moment]")) { moment = 0; remember(); showMoment(); }
  const choice = /** @type {HTMLElement | null} */ (target.closest("[data-choose-instance]"));
  if (!choice) return;
  event.preventDefault();
  field("instance").value = choice.dataset.chooseInstance || "";
  changed();
});

function changed() {
  remember();
  charts.refresh();
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", (event) => {
  const name = /** @type {HTMLInputElement} */ (event.target).name;
  if (!name) return;
  if (name === "range") {
    if (isFree() && charts.panel) range = [charts.panel.window.start, charts.panel.window.end];
    if (!isFree()) range = null;
    showRange();
  } else if (name === "from" || name === "to") {
    range = [field("from").value, field("to").value];
  } else if (name === "tz") {
    showRange();
  }
  changed();
});

/** How many zooms Back can undo. */
let zooms = 0;
back.addEventListener("click", () => {
  if (zooms) { history.back(); return; }
  field("range").value = "15m";
  range = null;
  showRange();
  changed();
});
addEventListener("popstate", () => location.reload());

for (const id of ["#jump-deployment", "#jump-environment"]) {
  find(id)?.addEventListener("change", (event) => {
    const target = /** @type {HTMLSelectElement} */ (event.target);
    const values = question();
    if (toggled.size) values.set("legend", [...toggled].join("~"));
    values.delete("version");
    values.delete("instance");
    if (id === "#jump-environment" && target.value) values.set("environment", target.value);
    location.href = `${id === "#jump-deployment" ? target.value : location.pathname}?${values}`;
  });
}

/** A link made by hand may have its times in words. @param {string} name */
const end = (name) => Number(address.get(name)) || address.get(name) || "";
if (address.get("from") && !form.dataset.problem) setRange([end("from"), end("to")]);
showRange();
addEventListener("load", () => {
  remember();
  charts.start();
  showMoment();
});
