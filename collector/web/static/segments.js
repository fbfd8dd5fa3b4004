// Segments: a few buttons of which one is pressed.

import { el } from "./dom.js";

/** `choices` are `[value, text, title]`; `choose(value)` is called when another one is pressed. Gives `{ root, press(value) }`. */
export function segments(label, choices, current, choose) {
  const root = el("div", { class: "segments", role: "group", "aria-label": label });
  const press = (value) => {
    for (const [i, button] of [...root.children].entries()) button.setAttribute("aria-pressed", String(choices[i][0] === value));
  };
  for (const [value, text, title] of choices) {
    const onclick = () => {
      press(value);
      choose(value);
    };
    root.append(el("button", { type: "button", title, "data-value": String(value), onclick }, text));
  }
  press(current);
  return { root, press };
}
