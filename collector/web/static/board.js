// Board: all charts of a page over one axis, with one cursor, one zoom and the same phases.

import { look, looked } from "./address.js";
import { el } from "./dom.js";
import { sentence, words } from "./format.js";
import { tolerate } from "./link.js";
import { segments } from "./segments.js";
import { onTheme } from "./theme.js";
import { BY_STEPS, axisOf } from "./xaxis.js";

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const SECONDS_BETWEEN = 10; // where time is only read off, and not drawn by

export class Board {
  #cards = [];
  #grids = new Map();
  #zoomed = null;
  #ends = [Infinity, -Infinity];
  #busy = false;
  #again = false;
  #frame = 0;
  #led = false;
  #asked = 0;

  /** What all cards share; see plot.js. */
  view = {
    key: "board",
    axis: axisOf("log"),
    zoomed: null,
    phases: { tracks: [], highlighted: null, marks: [] },
    outcomes: new Map(),
    range: () => this.#zoomed ?? this.#all(),
    zoom: (ends) => this.#zoom(ends),
    widen: (steps) => this.#widen(steps),
    refresh: () => this.refresh(),
    repaint: () => this.#repaint(),
  };

  /**
   * `newCard(quantity, view)` makes the card of a quantity; `map` is the phase map, which follows the axis of the charts. Of `time` there
   * is `{ offered, isTold, refresh(), axis(name) }`: the axes beside those of steps, whether times are told over steps as well, how what
   * is known of them is asked for, and the axis of a name.
   */
  constructor(newCard, map, time) {
    this.newCard = newCard;
    this.map = map;
    this.time = time;
    this.offered = [...BY_STEPS, ...time.offered];
    this.#recall();
    this.axis = segments("What all charts are drawn over", this.offered, this.wanted, (name) => {
      this.wanted = name;
      const stays = this.#across();
      look({ steps: name === "log" ? null : name, ...(stays ? {} : { from: null, to: null }) });
      if (stays) this.#repaint();
      else this.#afresh();
      this.refresh();
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
        el("div", { class: "tools-steps" }, el("span", { class: "tools-label" }, "Over"), this.axis.root),
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
    this.#drop((card) => !quantities.some(({ name }) => name === card.quantity.name));
    this.#lead();
  }

  /** Take away cards of what is no longer to be seen, as when a run was taken out, and the groups that they leave empty. */
  #drop(isGone) {
    for (const card of this.#cards.filter(isGone)) {
      this.sight.unobserve(card.root);
      card.root.remove();
    }
    this.#cards = this.#cards.filter((card) => !isGone(card));
    for (const [probe, { section, grid, jump }] of this.#grids) {
      if (grid.children.length > 0) continue;
      section.remove();
      jump.remove();
      this.#grids.delete(probe);
    }
  }

  /** Where the charts of a probe stand; made, with a way to jump there, when the first of them comes. */
  #group(probe) {
    if (!this.#grids.has(probe)) {
      const name = probe ? sentence(words(probe)) : "From the training loop";
      const heading = el("h3", { tabindex: -1 }, name);
      const grid = el("div", { class: "grid" });
      const section = el("section", { class: "group", "aria-label": name }, heading, grid);
      const onclick = () => {
        heading.scrollIntoView({ behavior: calm.matches ? "auto" : "smooth", block: "start" });
        heading.focus({ preventScroll: true });
      };
      const jump = el("button", { type: "button", class: "button", onclick }, name);
      this.groups.append(section);
      this.jumps.append(jump);
      this.#grids.set(probe, { section, grid, jump });
    }
    return this.#grids.get(probe).grid;
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
    this.axis.press(this.wanted);
    this.reset.hidden = !this.#zoomed;
    for (const card of this.#cards) card.restore();
    this.#rebuild();
    this.#comeNear();
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
      if (this.#isTimed) await this.#askClock(); // before the points: none is drawn where nothing is known of its time
      for (const card of this.#cards.filter((each) => each.due)) {
        try {
          await card.refresh();
        } catch (error) {
          card.expect(); // the next news tries again
          card.frame.refuse(error.message);
          tolerate(error);
        }
      }
      if (!this.#isTimed && this.time.isTold && Date.now() - this.#asked > SECONDS_BETWEEN * 1000) await this.#askClock();
    }
  }

  get #isTimed() {
    return this.time.offered.some(([name]) => name === this.wanted);
  }

  async #askClock() {
    this.#asked = Date.now();
    await this.time.refresh().catch(tolerate);
    this.#across();
    if (this.view.axis.isApart) this.#cards.forEach((card) => card.draw());
    this.#repaint();
  }

  /** Let the axis be the one that is wanted, or as near to it as is known; false where its places are not those of the one before. */
  #across() {
    const before = this.view.axis.isApart;
    this.view.axis = this.time.axis(this.wanted);
    if (before === this.view.axis.isApart) return true;
    this.#ends = [Infinity, -Infinity];
    return false;
  }

  #recall() {
    const said = looked("steps");
    this.wanted = this.offered.some(([name]) => name === said) ? said : "log";
    this.#across();
    const ends = ["from", "to"].map((name) => Number.parseFloat(looked(name)));
    this.#zoomed = ends.every(Number.isFinite) && 0 <= ends[0] && ends[0] < ends[1] ? ends : null;
    this.view.zoomed = this.#zoomed;
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
    this.#comeNear();
  }

  #comeNear() {
    this.view.zoomed = this.#zoomed;
    for (const card of this.#cards) card.zoom?.();
    this.refresh();
  }

  /** Once a frame at most, however much changes. */
  #repaint() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => {
      this.map.span(this.#all(), this.#zoomed, this.view.axis);
      this.#cards.forEach((card) => card.repaint());
    });
  }

  /** All of an axis whose places are other ones. */
  #afresh() {
    this.#zoom(null);
    this.#rebuild();
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
