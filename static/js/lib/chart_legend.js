// @ts-check
/** The names of a chart's curves below it: buttons that hide and show them. Plotly's own legend is drawn anew with each live
 *  point, a sixth of that work, and no keyboard reaches it. */

import { make } from "./dom.js";

/** In place: most of it is the same a second later.
 *  @param {HTMLElement} place @param {any[]} traces Each with its key as `meta` and whether it shows as `visible`. */
export function showLegend(place, traces) {
  const named = traces.filter((trace) => trace.showlegend !== false);
  const shown = /** @type {HTMLElement[]} */ ([...place.children]);
  named.forEach((trace, index) => {
    const entry = shown[index] || place.appendChild(made());
    const swatch = /** @type {HTMLElement} */ (entry.firstElementChild);
    set(entry, "curve", trace.meta);
    set(swatch, "kind", trace.type === "bar" ? "bar" : trace.line?.dash || "line");
    swatch.style.setProperty("--curve", trace.type === "bar" ? trace.marker.color : trace.line.color);
    const name = /** @type {HTMLElement} */ (entry.lastElementChild);
    if (name.textContent !== trace.name) name.textContent = trace.name;
    entry.setAttribute("aria-pressed", String(trace.visible !== "legendonly"));
  });
  shown.slice(named.length).forEach((entry) => entry.remove());
}

function made() {
  const entry = make("button", "legend-curve");
  entry.setAttribute("type", "button");
  entry.append(make("span", "legend-swatch"), make("span"));
  return entry;
}

/** @param {HTMLElement} element @param {string} name @param {string} value */
function set(element, name, value) {
  if (element.dataset[name] !== value) element.dataset[name] = value;
}
