// @ts-check
/** The Usage page: the choice lives in the address; the chart follows it. */

import { find } from "./lib/dom.js";
import { Charts } from "./lib/charts.js";

const form = /** @type {HTMLFormElement} */ (find("#usage-question"));

function question() {
  const values = new URLSearchParams();
  for (const [key, value] of new FormData(form)) if (typeof value === "string" && value) values.set(key, value);
  return values;
}

const charts = new Charts(/** @type {HTMLElement} */ (find("[data-charts]")), question, undefined, 30_000);
find("#measure")?.addEventListener("change", () => {
  history.replaceState(null, "", `?${question()}`);
  charts.refresh();
});
addEventListener("load", () => charts.start());
