// @ts-check
/** Draws the figures that the server built, and asks for them again. Zoom and hidden curves survive a refresh. */

import { find, findAll, isDark } from "./dom.js";

const REFRESH_MS = 2000;

export class Charts {
  /** @param {HTMLElement} root @param {() => URLSearchParams} question @param {(state: string) => void} [onState] @param {number} [every] */
  constructor(root, question, onState = () => {}, every = REFRESH_MS) {
    this.root = root;
    this.every = every;
    this.question = question;
    this.onState = onState;
    /** @type {{at: Date, text: string}[]} */
    this.requests = [];
    this.busy = false;
  }

  start() {
    this.refresh();
    setInterval(() => { if (!document.hidden) this.refresh(); }, this.every);
    document.body.addEventListener("theme-changed", () => this.refresh());
    addEventListener("resize", () => findAll(".js-plotly-plot", this.root).forEach((plot) => window["Plotly"].Plots.resize(plot)));
  }

  /** Mark one request on every chart. @param {Date} at @param {string} text */
  mark(at, text) {
    this.requests = [...this.requests.slice(-9), { at, text }];
    this.refresh();
  }

  async refresh() {
    if (this.busy) return;
    this.busy = true;
    try {
      const values = this.question();
      values.set("theme", isDark() ? "dark" : "light");
      const response = await fetch(`${this.root.dataset.charts}?${values}`);
      if (!response.ok) throw new Error(String(response.status));
      const panel = await response.json();
      for (const section of findAll("[data-chart]", this.root)) this.draw(section, panel.charts[section.dataset.chart || ""]);
      this.onState(`Updated ${new Date(panel.now).toLocaleTimeString([], { hour12: false })}`);
    } catch {
      this.onState("The server does not answer; the charts show what was last known.");
    } finally {
      this.busy = false;
    }
  }

  /** @param {HTMLElement} section @param {{figure?: any, facts?: string, absent?: string}} chart */
  draw(section, chart) {
    const plot = /** @type {HTMLElement} */ (find("[data-plot]", section));
    const absent = /** @type {HTMLElement} */ (find("[data-absent]", section));
    const facts = /** @type {HTMLElement} */ (find("[data-facts]", section));
    facts.textContent = chart.facts || "";
    plot.hidden = !chart.figure;
    absent.hidden = !chart.absent;
    absent.textContent = chart.absent || "";
    if (!chart.figure) return;
    const { data, layout } = chart.figure;
    layout.shapes = [...(layout.shapes || []), ...this.requests.map(({ at }) => line(at))];
    layout.annotations = [...(layout.annotations || []), ...this.requests.map(({ at, text }) => label(at, text))];
    window["Plotly"].react(plot, data, layout, { displayModeBar: false, responsive: true });
  }
}

/** @param {Date} at */
const line = (at) => ({ type: "line", xref: "x", yref: "paper", x0: at.toISOString(), x1: at.toISOString(), y0: 0, y1: 1, line: { color: "#ae3ec9", width: 2 } });

/** @param {Date} at @param {string} text */
const label = (at, text) => ({ x: at.toISOString(), y: 1, xref: "x", yref: "paper", text, showarrow: false, font: { size: 9, color: "#ae3ec9" }, xanchor: "right", yanchor: "top" });
