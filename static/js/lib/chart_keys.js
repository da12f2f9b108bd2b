// @ts-check
/** A chart by keyboard: arrows walk over its points, Home and End to the outermost, Enter asks for the moment, Escape leaves. */

const WALK = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

/** @param {any} plot What Plotly drew. @param {HTMLElement} spoken Is told what is under the cursor.
 *  @param {() => void} refresh Draws news that wait: what is shown and what is told have to be of the same points.
 *  @param {(x: number, isBar: boolean) => void} choose */
export function walkable(plot, spoken, refresh, choose) {
  plot.tabIndex = 0;
  /** Where the reader is on the axis; null when nowhere. @type {number | null} */
  let at = null;
  plot.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in WALK) {
      refresh();
      const places = placesOf(plot);
      if (!places.length) return;
      const now = at === null ? places.length : places.findIndex((x) => x >= /** @type {number} */ (at));
      const next = (now < 0 ? places.length : now) + WALK[/** @type {keyof typeof WALK} */ (event.key)];
      at = places[Math.max(0, Math.min(places.length - 1, next))];
      plot.dataset.reading = "true";
      show(plot, at, spoken);
    } else if (event.key === "Enter" && at !== null) {
      choose(at, visible(plot).some((trace) => trace.type === "bar"));
    } else if (event.key === "Escape" && at !== null) {
      leave();
      event.stopPropagation();
    } else {
      return;
    }
    event.preventDefault();
  });
  plot.addEventListener("blur", leave);

  function leave() {
    if (at === null) return;
    at = null;
    delete plot.dataset.reading;
    spoken.textContent = "";
    window["Plotly"].Fx.unhover(plot);
  }
}

/** @param {any} plot @returns {any[]} */
const visible = (plot) => plot.data.filter((/** @type {any} */ trace) => trace.visible !== "legendonly" && trace.hoverinfo !== "skip");

/** Where some curve has a point, in order. @param {any} plot @returns {number[]} */
function placesOf(plot) {
  const [start, end] = plot.layout.xaxis.range;
  const found = new Set();
  for (const trace of visible(plot)) {
    trace.x.forEach((/** @type {number} */ x, /** @type {number} */ index) => { if (x >= start && x <= end && trace.y[index] !== null) found.add(x); });
  }
  return [...found].sort((one, other) => one - other);
}

/** @param {any} plot @param {number} at @param {HTMLElement} spoken */
function show(plot, at, spoken) {
  const points = [], words = [];
  for (const trace of visible(plot)) {
    const pointNumber = trace.x.indexOf(at);
    if (pointNumber < 0 || trace.y[pointNumber] === null) continue;
    points.push({ curveNumber: plot.data.indexOf(trace), pointNumber });
    words.push(trace.text ? trace.text[pointNumber] : `${trace.name} ${Number(trace.y[pointNumber].toPrecision(3))}`);
  }
  window["Plotly"].Fx.hover(plot, points);
  const clock = new Date(at).toISOString().slice(0, 19).replace("T", " ");
  spoken.textContent = `${clock}: ${words.join(", ").replaceAll("<br>", ", ")}`;
}
