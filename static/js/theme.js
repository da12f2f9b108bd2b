// Runs before the first paint, so that a dark page never flashes white. Not a module: those come later.
(() => {
  const stored = localStorage.getItem("slipway-theme");
  const dark = stored ? stored === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.bsTheme = dark ? "dark" : "light";
})();
