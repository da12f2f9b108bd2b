// @ts-check
/** The Logs tab. */

import { find } from "./lib/dom.js";
import { LogView } from "./lib/log_view.js";

const element = /** @type {HTMLElement} */ (find("#log"));
const state = /** @type {HTMLElement} */ (find("#log-state"));
const earlier = /** @type {HTMLButtonElement} */ (find("#log-earlier"));
const pause = /** @type {HTMLButtonElement} */ (find("#log-pause"));
const view = new LogView(element, (text) => { state.textContent = text; earlier.hidden = !view.hasEarlier; });

const search = /** @type {HTMLInputElement} */ (find("#log-search"));
find("#log-instance")?.addEventListener("change", (event) => {
  const values = new URLSearchParams({ instance: /** @type {HTMLSelectElement} */ (event.target).value });
  if (search.value) values.set("search", search.value);
  location.search = values.toString();
});
search.value = new URLSearchParams(location.search).get("search") || "";
view.setFilter(search.value);
search.addEventListener("input", () => view.setFilter(search.value));
pause.addEventListener("click", () => { pause.textContent = view.togglePause() ? "Resume" : "Pause"; });
earlier.addEventListener("click", async () => {
  const response = await fetch(`${element.dataset.earlierUrl}?before=${view.first}`);
  if (!response.ok) return;
  const page = await response.json();
  view.prepend(page.lines);
  view.hasEarlier = page.has_earlier;
  earlier.hidden = !page.has_earlier;
  if (page.is_cut) view.markCut();
});
view.open(element.dataset.log || "");
