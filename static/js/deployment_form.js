// @ts-check
/** The deployment form: changing the engine or the model fetches the fields anew; what the user typed stays. */

import { find } from "./lib/dom.js";

const form = /** @type {HTMLFormElement} */ (find("#deployment-form"));
const script = /** @type {HTMLElement} */ (find("script[data-fields-url]"));
const touchedField = /** @type {HTMLInputElement} */ (form.elements.namedItem("touched"));
const touched = new Set(touchedField.value.split(",").filter(Boolean));
const name = /** @type {HTMLInputElement | null} */ (form.elements.namedItem("name"));
const DRIVERS = ["engine", "model", "endpoint"];
const OF_ENGINE = ["image", "extra_arguments"];
const FOLLOWED = ["model", "endpoint"];

/** @param {Event} event */
function noted(event) {
  const field = /** @type {HTMLInputElement} */ (event.target);
  if (!field.name || FOLLOWED.includes(field.name)) return;
  touched.add(field.name);
  // What is typed for an engine means nothing to another one, which a model's choice might bring.
  if (field.name.startsWith("engine_") || OF_ENGINE.includes(field.name)) touched.add("engine");
  touchedField.value = [...touched].join(",");
}

async function fetchFields() {
  const values = new URLSearchParams();
  for (const [key, value] of new FormData(form)) {
    // Secrets never travel in an address; what was typed there is put back below.
    if (typeof value === "string" && !["csrfmiddlewaretoken", "secret_variables"].includes(key)) values.append(key, value);
  }
  const secrets = /** @type {HTMLTextAreaElement} */ (form.elements.namedItem("secret_variables")).value;
  const response = await fetch(`${script.dataset.fieldsUrl}?${values}`).catch(() => null);
  if (!response || !response.ok) return;
  const template = document.createElement("template");
  template.innerHTML = await response.text();
  find("#specification-fields")?.replaceWith(template.content);
  /** @type {HTMLTextAreaElement} */ (form.elements.namedItem("secret_variables")).value = secrets;
  const engine = /** @type {HTMLElement | null} */ (find("input[name=engine]:checked"));
  engine?.focus();
}

/** A name from the model's, while the user has not typed one. @param {HTMLSelectElement} select */
function suggestName(select) {
  if (!name || touched.has("name")) return;
  const text = select.selectedOptions[0]?.textContent?.replace(/\(.*\)$/, "") ?? "";
  name.value = text.normalize("NFKD").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 63);
}

form.addEventListener("input", noted);
// Choosing the one that is chosen already is a choice, too, and no input.
form.addEventListener("click", (event) => { if (event.target instanceof HTMLInputElement && event.target.name === "engine") noted(event); });
form.addEventListener("change", (event) => {
  const field = /** @type {HTMLInputElement} */ (event.target);
  if (field instanceof HTMLSelectElement && field.name === "model") suggestName(field);
  if (DRIVERS.includes(field.name)) fetchFields();
});
const model = form.elements.namedItem("model");
if (name && !name.value && model instanceof HTMLSelectElement) suggestName(model);
