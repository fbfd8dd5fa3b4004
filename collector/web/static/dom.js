// Making elements. Text only ever becomes a text node: names come from other people's programs.

const SVG = "http://www.w3.org/2000/svg";
const told = new WeakMap();

/** An element with attributes (`on…` are listeners, `false` and `null` are left out) and children. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Set the text of a node, only if it would change: an unchanged page must not flicker, nor lose a selection. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
  return node;
}

/**
 * The same for whole children: `make()` is called only when the facts they are made of have changed. A fold that was open stays so,
 * and keeps the focus: news must not close what somebody reads.
 */
export function renew(node, facts, make) {
  const said = JSON.stringify(facts);
  if (told.get(node) === said) return;
  told.set(node, said);
  const before = folds(node);
  const focused = before.findIndex((fold) => fold.firstElementChild === document.activeElement);
  node.replaceChildren(...[make()].flat());
  const after = folds(node);
  const alike = (fold, i, all) => after.filter(({ className }) => className === fold.className)[all.slice(0, i).filter(({ className }) => className === fold.className).length];
  for (const [i, fold] of before.entries()) if (fold.open) alike(fold, i, before)?.setAttribute("open", "");
  if (focused >= 0) alike(before[focused], focused, before)?.firstElementChild.focus();
}

function folds(node) {
  return [...node.querySelectorAll("details")];
}

/** A small colour sample, set through the CSSOM because the page's policy forbids style attributes. */
export function swatch(kind, colour) {
  const node = el("i", { class: `swatch swatch-${kind}`, "aria-hidden": "true" });
  node.style.setProperty("--colour", colour);
  return node;
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
