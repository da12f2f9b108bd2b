// @ts-check
/** A deployment in the Developer Hub: samples in three languages, and the playground. */

import { find, findAll } from "./lib/dom.js";
import { Playground } from "./lib/playground.js";

for (const button of findAll("[data-tab]")) {
  button.addEventListener("click", () => {
    for (const other of findAll("[data-tab]")) other.classList.toggle("active", other === button);
    for (const body of findAll("[data-tab-body]")) body.hidden = body.id !== button.dataset.tab;
  });
}
const root = find("#playground");
if (root) new Playground(root);
