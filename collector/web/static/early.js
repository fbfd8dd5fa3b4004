// Runs before the first paint, so that the page never flashes the other theme. theme.js takes over.
(() => {
  let choice = "system";
  try {
    choice = localStorage.getItem("phasewatch-theme") ?? choice;
  } catch {
    // Storage may be forbidden; the system's preference holds then.
  }
  const dark = choice === "dark" || (choice !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
