// Segments: a few buttons of which one is pressed.

import { el } from "./dom.js";

/** `choices` are `[value, text, title]`; `choose(value)` is called when another one is pressed. */
export function segments(label, choices, current, choose) {
  const group = el("div", { class: "segments", role: "group", "aria-label": label });
  const press = (value) => {
    for (const [i, button] of [...group.children].entries()) button.setAttribute("aria-pressed", String(choices[i][0] === value));
  };
  for (const [value, text, title] of choices) {
    const onclick = () => {
      press(value);
      choose(value);
    };
    group.append(el("button", { type: "button", title, "data-value": String(value), onclick }, text));
  }
  press(current);
  return group;
}
