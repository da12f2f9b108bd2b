// @ts-check
/** The Monitoring tab: the choice lives in the address, so that a link reopens exactly this view. */

import { find } from "./lib/dom.js";
import { Charts } from "./lib/charts.js";

const form = /** @type {HTMLFormElement} */ (find("#chart-question"));
const state = /** @type {HTMLElement} */ (find("#chart-state"));

function question() {
  const values = new URLSearchParams();
  for (const [key, value] of new FormData(form)) if (typeof value === "string" && value) values.set(key, value);
  return values;
}

const charts = new Charts(/** @type {HTMLElement} */ (find("[data-charts]")), question, (text) => { state.textContent = text; });
form.addEventListener("change", () => {
  history.replaceState(null, "", `?${question()}`);
  charts.refresh();
});
addEventListener("load", () => charts.start());
