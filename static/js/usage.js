// @ts-check
/** The Usage page: the chart answers the question in the address, as the table does; what it measures is chosen here. */

import { find } from "./lib/dom.js";
import { Charts } from "./lib/charts.js";

const measure = /** @type {HTMLSelectElement} */ (find("#measure"));

function question() {
  const values = new URLSearchParams(location.search);
  values.set("measure", measure.value);
  return values;
}

const charts = new Charts(/** @type {HTMLElement} */ (find("[data-charts]")), question, { every: 30_000 });
measure.addEventListener("change", () => {
  history.replaceState(null, "", `?${question()}`);
  charts.refresh();
});
addEventListener("load", () => charts.start());
