// @ts-check
/** Draws the figures that the server built, and adds the live points that it sends. Only charts in sight are drawn. */

import { walkable } from "./chart_keys.js";
import { showLegend } from "./chart_legend.js";
import { find, findAll, isDark, make } from "./dom.js";

const RETRY_MS = [1000, 2000, 5000];
const NO_RETRY = [1000, 4401, 4404, 4422];
const SPACING_MS = 5000;
const WHOLE_MS = 60_000;
// Drawing is most of what an open page costs, in CPU and in what the browser has to throw away. The requests themselves are
// drawn as soon as some come after a pause, else with each second news; what else is in sight follows less often. Figures in
// words don't wait.
const PROMPT = "volume", PROMPT_MS = 1500, UNHURRIED_MS = 5000;

/** @typedef {{figure?: {data: any[], layout: any}, facts?: string, advice?: string, absent?: string}} Chart */
/** @typedef {{now: string, charts: Record<string, Chart>, window?: any, statistics?: any, last_mark?: number, error?: string}} Panel */

export class Charts {
  /** @param {HTMLElement} root @param {() => URLSearchParams} question
   *  @param {{onState?: (text: string) => void, onPanel?: (panel: Panel) => void, onStatistics?: (values: any) => void,
   *           onZoom?: (from: number, to: number) => void, onMoment?: (at: number, width: number) => void, onLegend?: () => void,
   *           toggled?: Set<string>, every?: number}} [options] */
  constructor(root, question, options = {}) {
    this.root = root;
    this.question = question;
    this.options = options;
    /** Curves whose legend entry was clicked, as "chart.curve". @type {Set<string>} */
    this.toggled = options.toggled || new Set();
    /** @type {Panel | null} */
    this.panel = null;
    /** @type {Set<HTMLElement>} */
    this.inSight = new Set();
    /** @type {Set<HTMLElement>} */
    this.stale = new Set();
    /** @type {WebSocket | null} */
    this.socket = null;
    this.attempts = 0;
    this.loads = 0;
    this.lastLoad = 0;
    /** @type {{at: Date, text: string}[]} */
    this.requests = [];
    /** @type {Set<string>} */
    this.unshown = new Set();
    this.pointed = 0;
    /** When each chart was drawn last. @type {WeakMap<HTMLElement, number>} */
    this.drawnAt = new WeakMap();
    this.observer = new IntersectionObserver((entries) => entries.forEach((entry) => this.sighted(entry)), { rootMargin: "150px" });
  }

  start() {
    for (const section of findAll("[data-chart]", this.root)) this.observer.observe(section);
    this.refresh();
    if (this.options.every) setInterval(() => { if (!document.hidden) this.refresh(); }, this.options.every);
    // On paper everything is in sight.
    addEventListener("beforeprint", () => { this.stale.forEach((section) => this.draw(section)); });
    document.body.addEventListener("theme-changed", () => this.refresh());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.refresh(); });
  }

  /** Mark one request on every chart. @param {Date} at @param {string} text */
  mark(at, text) {
    this.requests = [...this.requests.slice(-9), { at, text }];
    this.redrawAll();
  }

  /** Point at one moment on every chart, in seconds since the epoch; 0 at none. @param {number} at */
  point(at) {
    this.pointed = at;
    this.redrawAll();
  }

  /** Read everything anew, and follow what comes from there. */
  async refresh() {
    const load = ++this.loads;
    this.lastLoad = performance.now();
    const values = this.question();
    if (this.followed !== values.toString()) this.disconnect();
    try {
      const query = new URLSearchParams(values);
      query.set("theme", isDark() ? "dark" : "light");
      const response = await fetch(`${this.root.dataset.charts}?${query}`);
      const panel = /** @type {Panel} */ (response.ok || response.status === 422 ? await response.json() : null);
      // A later question was asked meanwhile: its answer is the one to show.
      if (load !== this.loads) return;
      if (!panel) throw new Error(String(response.status));
      if (panel.error) {
        this.say(panel.error);
        return;
      }
      this.panel = panel;
      this.options.onPanel?.(panel);
      if (panel.statistics) this.options.onStatistics?.(panel.statistics);
      this.redrawAll();
      this.say(`Updated ${clock(panel.now)}`);
      this.connect(values);
    } catch {
      if (load !== this.loads) return;
      this.say("The server does not answer; the charts show what was last known.");
      if (this.root.dataset.liveCharts) setTimeout(() => { if (load === this.loads) this.refresh(); }, 3000);
    }
  }

  /** @param {string} text */
  say(text) {
    this.options.onState?.(text);
  }

  /** @param {URLSearchParams} values */
  connect(values) {
    if (!this.root.dataset.liveCharts || values.get("from") || this.socket) return;
    this.followed = values.toString();
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${this.root.dataset.liveCharts}?${values}`);
    this.socket = socket;
    socket.onmessage = (event) => { this.attempts = 0; this.extend(JSON.parse(event.data)); };
    socket.onclose = (event) => {
      if (this.socket !== socket || NO_RETRY.includes(event.code)) return;
      this.say("The live connection is away; connecting again.");
      setTimeout(() => {
        if (this.socket !== socket) return;
        this.socket = null;
        this.refresh();
      }, RETRY_MS[Math.min(this.attempts++, RETRY_MS.length - 1)]);
    };
  }

  disconnect() {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  /** Live points: those since `since` take the place of what is there. @param {any} news */
  extend(news) {
    if (!this.panel || document.hidden) return;
    const soon = performance.now() - this.lastLoad > SPACING_MS;
    // What is said of the whole time, as averages and peaks, comes with everything.
    if (performance.now() - this.lastLoad > WHOLE_MS) return this.refresh();
    if (soon && (news.marks !== this.panel.last_mark && news.marks > (this.panel.last_mark || 0))) return this.refresh();
    for (const section of findAll("[data-chart]", this.root)) {
      const id = section.dataset.chart || "";
      const chart = this.panel.charts[id], fresh = news.charts[id]?.points;
      if (chart && news.facts[id]) chart.facts = news.facts[id];
      if (!fresh) { this.slide(chart, news, section); continue; }
      // Something that was not there before: an instance, or the first request of all. What even a fresh panel doesn't
      // show, as one of very many instances, is not asked for again.
      const missing = Object.keys(fresh).filter((key) => !chart?.figure?.data.some((trace) => trace.meta === key));
      const unknown = missing.map((key) => `${id}.${key}`).filter((key) => !this.unshown.has(key));
      if (unknown.length && soon) {
        unknown.forEach((key) => this.unshown.add(key));
        return this.refresh();
      }
      if (!chart?.figure) continue;
      let changed = false;
      for (const trace of chart.figure.data) if (fresh[trace.meta]) changed = merge(trace, fresh[trace.meta], news) || changed;
      this.slide(chart, news, section, changed);
    }
    this.drawDue();
    this.options.onStatistics?.(news.statistics);
    this.say(`Updated ${clock(news.now * 1000)}, live`);
  }

  /** Let the window move on: with each point, not with each second.
   *  @param {Chart | undefined} chart @param {any} news @param {HTMLElement} section @param {boolean} [changed] */
  slide(chart, news, section, changed = false) {
    if (!chart?.figure) return;
    const range = chart.figure.layout.xaxis.range;
    if (range[0] === news.start && !changed) return;
    chart.figure.layout.xaxis.range = [news.start, news.end];
    this.show(section, chart, false);
  }

  /** Draw what news have changed, in sight and due. What somebody reads by hovering or by keyboard would vanish: it waits
   *  until they leave. */
  drawDue() {
    for (const section of this.inSight) {
      const isDue = performance.now() - (this.drawnAt.get(section) || 0) >= (section.dataset.chart === PROMPT ? PROMPT_MS : UNHURRIED_MS);
      if (!isDue || !this.stale.has(section) || find("[data-plot]", section)?.matches(":hover, [data-reading]")) continue;
      this.draw(section);
    }
  }

  redrawAll() {
    if (!this.panel) return;
    for (const section of findAll("[data-chart]", this.root)) this.show(section, this.panel.charts[section.dataset.chart || ""]);
  }

  /** @param {IntersectionObserverEntry} entry */
  sighted(entry) {
    const section = /** @type {HTMLElement} */ (entry.target);
    if (!entry.isIntersecting) { this.inSight.delete(section); return; }
    this.inSight.add(section);
    if (this.stale.has(section)) this.draw(section);
  }

  /** @param {HTMLElement} section @param {Chart | undefined} chart @param {boolean} [atOnce] */
  show(section, chart, atOnce = true) {
    if (!chart) return;
    setText(find("[data-facts]", section), chart.facts);
    setText(find("[data-advice]", section), chart.advice);
    const absent = /** @type {HTMLElement} */ (find("[data-absent]", section));
    absent.textContent = chart.absent || "";
    absent.hidden = !chart.absent;
    for (const part of findAll("[data-plot], [data-legend]", section)) part.hidden = !chart.figure;
    if (!chart.figure) return;
    this.stale.add(section);
    if (atOnce && this.inSight.has(section)) this.draw(section);
  }

  /** @param {HTMLElement} section */
  draw(section) {
    const chart = this.panel?.charts[section.dataset.chart || ""];
    const plot = /** @type {any} */ (find("[data-plot]", section));
    this.stale.delete(section);
    if (!chart?.figure) return;
    this.drawnAt.set(section, performance.now());
    const { data, layout } = chart.figure;
    for (const trace of data) {
      trace.asBuilt ??= trace.visible;
      const isHidden = (trace.asBuilt === "legendonly") !== this.toggled.has(`${section.dataset.chart}.${trace.meta}`);
      trace.visible = isHidden ? "legendonly" : true;
    }
    const offset = (this.panel?.window?.offset || 0) * 1000;
    const own = this.requests.map(({ at, text }) => ({ x: at.getTime() + offset, text }));
    if (this.pointed) own.push({ x: this.pointed * 1000 + offset, text: "" });
    // The window is the server's word, whatever was zoomed to before.
    layout.xaxis.uirevision = layout.xaxis.range[0];
    const drawn = { ...layout, shapes: [...(layout.shapes || []), ...own.map(line)], annotations: [...(layout.annotations || []), ...own.map(label)] };
    window["Plotly"].react(plot, data, drawn, { displayModeBar: false, responsive: true, doubleClick: false });
    showLegend(/** @type {HTMLElement} */ (find("[data-legend]", section)), data);
    if (!plot.dataset.listens) this.listen(section, plot);
  }

  /** @param {HTMLElement} section @param {any} plot */
  listen(section, plot) {
    plot.dataset.listens = "true";
    const news = () => { if (this.stale.has(section)) this.draw(section); };
    plot.addEventListener("mouseleave", () => { if (!plot.dataset.reading) news(); });
    const { onZoom, onMoment } = this.options;
    const offset = () => this.panel?.window?.offset || 0;
    const seconds = (/** @type {any} */ x) => Math.round((typeof x === "number" ? x : Date.parse(`${String(x).replace(" ", "T")}Z`)) / 1000) - offset();
    if (onZoom) {
      plot.on("plotly_relayout", (/** @type {any} */ change) => {
        if (change["xaxis.range[0]"] !== undefined) onZoom(seconds(change["xaxis.range[0]"]), seconds(change["xaxis.range[1]"]));
      });
    }
    /** A bar begins where it is drawn, and lasts. @param {any} x @param {boolean} isBar */
    const choose = (x, isBar) => onMoment?.(seconds(x), isBar ? this.panel?.window.bar : this.panel?.window.width);
    plot.on("plotly_click", (/** @type {any} */ event) => {
      const point = event.points[0];
      if (point) choose(point.x, point.data.type === "bar");
    });
    const spoken = section.appendChild(make("div", "visually-hidden"));
    spoken.setAttribute("aria-live", "polite");
    walkable(plot, spoken, news, choose);
    find("[data-legend]", section)?.addEventListener("click", (event) => {
      const entry = /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest("[data-curve]"));
      if (!entry) return;
      const key = `${section.dataset.chart}.${entry.dataset.curve}`;
      if (!this.toggled.delete(key)) this.toggled.add(key);
      this.options.onLegend?.();
      this.draw(section);
    });
  }
}

/** Put the new points in the place of those since `since`, drop those that left the window; whether anything changed.
 *  @param {any} trace @param {[number[], (number | null)[]]} fresh @param {{since: number, start: number}} news */
function merge(trace, [times, values], { since, start }) {
  let kept = trace.x.length;
  while (kept > 0 && trace.x[kept - 1] >= since) kept--;
  let first = 0;
  while (first < kept && trace.x[first] < start) first++;
  const same = first === 0 && trace.x.length - kept === times.length && times.every((at, index) => trace.x[kept + index] === at && trace.y[kept + index] === values[index]);
  if (same) return false;
  const sizes = Array.isArray(trace.marker?.size) ? trace.marker.size : null;
  // A gap between what was there and what comes stays one.
  const gap = kept > first && times.length && trace.step && times[0] - trace.x[kept - 1] > 1.5 * trace.step ? 1 : 0;
  trace.x = [...trace.x.slice(first, kept), ...(gap ? [times[0] - trace.step] : []), ...times];
  trace.y = [...trace.y.slice(first, kept), ...(gap ? [null] : []), ...values];
  if (sizes) trace.marker.size = trace.y.map((/** @type {any} */ value, /** @type {number} */ index) => (value !== null && (trace.y[index - 1] ?? null) === null && (trace.y[index + 1] ?? null) === null ? 5 : 0));
  return true;
}

/** @param {HTMLElement | null} element @param {string} [text] */
function setText(element, text = "") {
  if (!element || element.textContent === text) return;
  element.textContent = text;
  if (!("advice" in element.dataset)) return;
  element.hidden = !text;
  const footer = /** @type {HTMLElement | null} */ (element.closest("[data-advice-only]"));
  if (footer) footer.hidden = !text;
}

/** @param {string | number} moment */
const clock = (moment) => new Date(moment).toLocaleTimeString([], { hour12: false });

/** @param {{x: number}} own */
const line = ({ x }) => ({ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color: "#ae3ec9", width: 2 } });

/** @param {{x: number, text: string}} own */
const label = ({ x, text }) => ({ x, y: 1, xref: "x", yref: "paper", text, showarrow: false, font: { size: 9, color: "#ae3ec9" }, xanchor: "right", yanchor: "top" });
