// @ts-check
/** What every page does: live nudges, ages that grow, theme, focus, keys, confirmation. */

import { copy, find, findAll, secondsText } from "./lib/dom.js";
import { startLive } from "./lib/live.js";

function refreshAges() {
  for (const element of findAll("time[data-age]")) {
    element.textContent = secondsText((Date.now() - Date.parse(element.getAttribute("datetime") || "")) / 1000);
  }
}

function toggleTheme() {
  const dark = document.documentElement.dataset.bsTheme !== "dark";
  document.documentElement.dataset.bsTheme = dark ? "dark" : "light";
  localStorage.setItem("slipway-theme", dark ? "dark" : "light");
  document.body.dispatchEvent(new CustomEvent("theme-changed"));
}

/** @param {MouseEvent} event */
function clicked(event) {
  const target = event.target instanceof Element ? event.target : null;
  const copyButton = /** @type {HTMLElement | null} */ (target?.closest("[data-copy]") ?? null);
  if (copyButton) copy(copyButton, copyButton.dataset.copy || "");
  if (target?.closest("[data-theme-toggle]")) toggleTheme();
  if (target?.closest("[data-dismiss]")) target.closest(".alert")?.remove();
  const menuButton = target?.closest("[data-menu-toggle]");
  if (menuButton) menuButton.setAttribute("aria-expanded", String(find("#menu")?.classList.toggle("show")));
}

/** "/" goes to the filter, as in most consoles. @param {KeyboardEvent} event */
function pressed(event) {
  const typing = event.target instanceof HTMLElement && event.target.matches("input, textarea, select, [contenteditable]");
  if (event.key === "/" && !typing) {
    const filter = find("[data-filter]");
    if (filter) { event.preventDefault(); filter.focus(); }
  }
}

/** The disruptive form that was submitted and waits for the answer of the dialog. @type {HTMLFormElement | null} */
let asking = null;

/** A disruptive form asks first, in a dialog that says what will happen; Esc closes it and the focus returns.
 *  @param {SubmitEvent} event */
function confirmFirst(event) {
  const form = /** @type {HTMLFormElement} */ (event.target);
  if (form.parentElement?.id === "confirm") answered(event);
  if (!form.dataset.confirm) return;
  event.preventDefault();
  asking = form;
  /** @type {HTMLElement} */ (find("#confirm-text")).textContent = form.dataset.confirm;
  // The same words as on the button that was pressed: “Delete”, “Stop”.
  const words = event.submitter?.textContent?.trim() || event.submitter?.getAttribute("aria-label") || "Continue";
  /** @type {HTMLElement} */ (find("#confirm button[value=yes]")).textContent = words;
  /** @type {HTMLDialogElement} */ (find("#confirm")).showModal();
}

/** The dialog's own form. What was asked about may have been read again meanwhile; its form is sent all the same,
 *  for a form outside the page sends nothing. @param {SubmitEvent} event */
function answered(event) {
  if (!asking || /** @type {HTMLButtonElement} */ (event.submitter)?.value !== "yes") return;
  if (!asking.isConnected) { asking.hidden = true; document.body.append(asking); }
  asking.submit();
}

/** Requests per minute of the rows that a list shows. */
async function fillRates() {
  const cells = findAll("[data-rate]");
  if (!cells.length) return;
  const ids = cells.map((cell) => cell.dataset.rate).join(",");
  const response = await fetch(`/console/deployments/rates/?ids=${ids}`).catch(() => null);
  if (!response || !response.ok) return;
  const { rates } = await response.json();
  for (const cell of cells) {
    const rate = rates[cell.dataset.rate || ""];
    cell.textContent = rate ? `${rate.per_minute < 10 ? rate.per_minute.toFixed(1) : Math.round(rate.per_minute)} /min` : "–";
    if (rate && rate.error_share > 0) cell.textContent += ` · ${(rate.error_share * 100).toFixed(1)} % 5xx`;
  }
}

/** What the page shows was deleted, or may not be seen any more: the page itself says so, where a stale one would not.
 *  @param {Event} event */
function gone(event) {
  const { elt, xhr } = /** @type {CustomEvent} */ (event).detail;
  if (xhr.status === 404 && elt.dataset.live) location.reload();
}

startLive();
setInterval(refreshAges, 1000);
document.addEventListener("click", clicked);
document.addEventListener("keydown", pressed);
document.addEventListener("submit", confirmFirst);
document.body.addEventListener("htmx:afterSettle", refreshAges);
document.body.addEventListener("htmx:responseError", gone);
find("[data-focus]")?.focus();
// On a narrow screen the tabs scroll: the one that is open shall be seen.
find(".deployment-tabs .active")?.scrollIntoView({ block: "nearest", inline: "center" });
// What succeeded need not be read; a refusal stays until it is closed.
setTimeout(() => findAll(".messages .alert-success").forEach((alert) => alert.remove()), 6000);
if (find("[data-rate]")) {
  fillRates();
  setInterval(fillRates, 5000);
  document.body.addEventListener("htmx:afterSettle", fillRates);
}
