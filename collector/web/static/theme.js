// Light and dark: the system's, or the one chosen here; and the colours charts are painted with.

import { svg } from "./dom.js";

const KEY = "phasewatch-theme";
const CHOICES = ["system", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();
const known = new Map();
let choice = remembered();

/** Whether the page is dark now. */
export function isDark() {
  return document.documentElement.dataset.theme === "dark";
}

/** A custom property of the style sheet, such as `--line`; a canvas cannot read those itself. Asked for at every movement, and so kept. */
export function colour(name) {
  const key = `${document.documentElement.dataset.theme} ${name}`;
  const value = known.get(key) ?? getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  if (value) known.set(key, value);
  return value;
}

/** Call `listener` whenever the colours change. */
export function onTheme(listener) {
  listeners.add(listener);
}

/** Make a button go through system, light and dark. */
export function themeButton(button) {
  const following = () => CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
  const show = () => {
    button.replaceChildren(icon(choice));
    button.setAttribute("aria-label", `Theme: ${choice}. Change to ${following()}.`);
    button.title = `Theme: ${choice}`;
  };
  button.addEventListener("click", () => {
    choice = following();
    try {
      localStorage.setItem(KEY, choice);
    } catch {
      // The choice then lasts as long as the page.
    }
    show();
    apply();
  });
  show();
}

function remembered() {
  try {
    const kept = localStorage.getItem(KEY);
    return CHOICES.includes(kept) ? kept : "system";
  } catch {
    return "system";
  }
}

function apply() {
  const dark = choice === "dark" || (choice === "system" && system.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  for (const listener of listeners) listener();
}

function icon(name) {
  const rays = "M8 1v1.8M8 13.2V15M1 8h1.8M13.2 8H15M3.05 3.05l1.3 1.3M11.65 11.65l1.3 1.3M3.05 12.95l1.3-1.3M11.65 4.35l1.3-1.3";
  const shapes = {
    system: [svg("circle", { cx: 8, cy: 8, r: 5.5 }), svg("path", { d: "M8 2.5a5.5 5.5 0 0 1 0 11z", class: "solid" })],
    light: [svg("circle", { cx: 8, cy: 8, r: 3 }), svg("path", { d: rays })],
    dark: [svg("path", { d: "M13.5 9.6A5.8 5.8 0 0 1 6.4 2.5a5.8 5.8 0 1 0 7.1 7.1z" })],
  };
  return svg("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, ...shapes[name]);
}

system.addEventListener("change", apply);
