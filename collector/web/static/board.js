// Board: all charts of a page over one step axis, with one cursor, one zoom and the same phases.

import { look, looked } from "./address.js";
import { el } from "./dom.js";
import { sentence, words } from "./format.js";
import { tolerate } from "./link.js";
import { segments } from "./segments.js";
import { onTheme } from "./theme.js";

const AXES = [
  [false, "linear", "Steps evenly spaced"],
  [true, "log", "Early steps spread out"],
];

export class Board {
  #cards = [];
  #grids = new Map();
  #zoomed = null;
  #ends = [Infinity, -Infinity];
  #busy = false;
  #again = false;
  #frame = 0;
  #led = false;

  /** What all cards share; see plot.js. */
  view = {
    key: "board",
    logSteps: true,
    phases: { tracks: [], highlighted: null, marks: [] },
    outcomes: new Map(),
    range: () => this.#zoomed ?? this.#all(),
    zoom: (ends) => this.#zoom(ends),
    widen: (steps) => this.#widen(steps),
    refresh: () => this.refresh(),
    repaint: () => this.#repaint(),
  };

  /** `newCard(quantity, view)` makes the card of a quantity; `map` is the phase map, which follows the steps of the charts. */
  constructor(newCard, map) {
    this.newCard = newCard;
    this.map = map;
    this.#recall();
    this.steps = segments("Step axis of all charts", AXES, this.view.logSteps, (log) => {
      this.view.logSteps = log;
      look({ steps: log ? null : "linear" });
      this.#rebuild();
    });
    this.reset = el("button", { type: "button", class: "button", hidden: !this.#zoomed, onclick: () => this.#zoom(null) }, "Show all steps");
    this.jumps = el("nav", { class: "jumps", "aria-label": "Groups of charts" });
    this.groups = el("div", { class: "groups" });
    this.root = el(
      "section",
      { class: "board", "aria-label": "Charts" },
      this.map.root,
      el(
        "div",
        { class: "tools" },
        el("h2", {}, "Measurements"),
        this.reset,
        el("div", { class: "tools-steps" }, el("span", { class: "tools-label" }, "Steps"), this.steps.root),
      ),
      this.jumps,
      this.groups,
    );
    this.resizes = new ResizeObserver(() => this.#cards.forEach((card) => card.resize()));
    this.resizes.observe(this.groups);
    this.sight = new IntersectionObserver((entries) => this.#sighted(entries), { rootMargin: "300px" });
    onTheme(() => this.#rebuild());
  }

  /** The quantities to be seen: one card each, kept when they are known already. */
  setQuantities(quantities, outcomes) {
    for (const outcome of outcomes) this.view.outcomes.set(outcome.code, outcome);
    for (const quantity of quantities) {
      const known = this.#cards.findIndex((card) => card.quantity.name === quantity.name);
      if (known >= 0 && sameViews(this.#cards[known].quantity, quantity)) continue;
      const card = this.newCard(quantity, this.view);
      if (known < 0) {
        this.#cards.push(card);
        this.#group(quantity.probe).append(card.root);
      } else {
        this.#cards[known].root.replaceWith(card.root);
        this.#cards[known] = card;
      }
      this.sight.observe(card.root);
    }
    this.#lead();
  }

  /** Where the charts of a probe stand; made, with a way to jump there, when the first of them comes. */
  #group(probe) {
    if (!this.#grids.has(probe)) {
      const name = probe ? sentence(words(probe)) : "From the training loop";
      const heading = el("h3", { tabindex: -1 }, name);
      const grid = el("div", { class: "grid" });
      this.groups.append(el("section", { class: "group", "aria-label": name }, heading, grid));
      const jump = () => {
        heading.scrollIntoView({ behavior: "smooth", block: "start" });
        heading.focus({ preventScroll: true });
      };
      this.jumps.append(el("button", { type: "button", class: "button", onclick: jump }, name));
      this.#grids.set(probe, grid);
    }
    return this.#grids.get(probe);
  }

  /** To the chart that the address names, once it is there. */
  #lead() {
    const named = this.#led ? null : this.#cards.find((card) => location.hash === `#${encodeURIComponent(card.root.id)}`);
    if (!named) return;
    this.#led = true;
    requestAnimationFrame(() => named.root.scrollIntoView());
  }

  /** What is painted of the phases: any of `tracks`, `highlighted` and `marks`, see regions.js. */
  paint(phases) {
    Object.assign(this.view.phases, phases);
    this.root.dataset.marks = this.view.phases.marks.length;
    this.root.style.setProperty("--ribbons", this.view.phases.tracks.length);
    this.#repaint();
  }

  /** New points came. */
  tick() {
    for (const card of this.#cards) card.expect();
    this.refresh();
  }

  /** Draw all charts anew: other series are to be seen. */
  redraw() {
    this.#rebuild();
    this.tick();
  }

  /** Back to what the address says. */
  restore() {
    this.#recall();
    this.steps.press(this.view.logSteps);
    this.reset.hidden = !this.#zoomed;
    for (const card of this.#cards) card.restore();
    this.#rebuild();
  }

  /** Fetch for the cards on screen, one after the other; a tick that comes meanwhile asks for one more round. */
  async refresh() {
    this.#again = true;
    if (this.#busy) return;
    this.#busy = true;
    try {
      await this.#rounds();
    } finally {
      this.#busy = false;
    }
  }

  async #rounds() {
    while (this.#again) {
      this.#again = false;
      for (const card of this.#cards.filter((each) => each.due)) {
        try {
          await card.refresh();
        } catch (error) {
          card.expect(); // the next connection tries again
          tolerate(error);
        }
      }
    }
  }

  #recall() {
    this.view.logSteps = looked("steps") !== "linear";
    const ends = ["from", "to"].map((name) => Number.parseFloat(looked(name)));
    this.#zoomed = ends.every(Number.isFinite) && 0 <= ends[0] && ends[0] < ends[1] ? ends : null;
  }

  #all() {
    const [low, high] = this.#ends;
    return low > high ? [0, 1] : low === high ? [low, low + 1] : [low, high];
  }

  #widen(steps) {
    if (steps.length === 0) return;
    const [low, high] = this.#ends;
    this.#ends = [Math.min(low, steps[0]), Math.max(high, steps.at(-1))];
    if (this.#ends[0] !== low || this.#ends[1] !== high) this.#repaint();
  }

  #zoom(ends) {
    const [low, high] = this.#all();
    this.#zoomed = ends && [Math.max(ends[0], low), Math.min(ends[1], high)];
    const [from, to] = this.#zoomed ? rounded(this.#zoomed) : [null, null];
    look({ from, to });
    this.reset.hidden = !this.#zoomed;
    this.#repaint();
  }

  /** Once a frame at most, however much changes. */
  #repaint() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => {
      this.map.span(this.#all(), this.#zoomed, this.view.logSteps);
      this.#cards.forEach((card) => card.repaint());
    });
  }

  #rebuild() {
    this.#repaint();
    this.#cards.forEach((card) => card.draw(true));
  }

  #sighted(entries) {
    for (const entry of entries) {
      const card = this.#cards.find((each) => each.root === entry.target);
      if (card) card.seen = entry.isIntersecting;
    }
    this.refresh();
  }
}

/** Whether a card of the one can show the other: it offers what there is, the network or its layers. */
function sameViews(one, other) {
  return Boolean(one.whole) === Boolean(other.whole) && Boolean(one.layers) === Boolean(other.layers);
}

/** To a hundredth of the stretch between them. */
function rounded(ends) {
  const places = Math.min(Math.max(2 - Math.floor(Math.log10(ends[1] - ends[0])), 0), 6);
  return ends.map((end) => String(Number(end.toFixed(places))));
}
