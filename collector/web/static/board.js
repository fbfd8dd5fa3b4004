// Board: all charts of a run over one step axis, with one cursor, one zoom and the same phases.

import { Card } from "./card.js";
import { el } from "./dom.js";
import { sentence, words } from "./format.js";
import { tolerate } from "./link.js";
import { PhaseMap } from "./phasemap.js";
import { foremost, hasMoved, isWhole } from "./phases.js";
import { segments } from "./segments.js";
import { onTheme } from "./theme.js";

const MOST_TRACKS = 2; // more ribbons and rules hide the curves; the phase map shows them all

export class Board {
  #cards = [];
  #grids = new Map();
  #tracks = [];
  #shown = null;
  #zoomed = null;
  #ends = [Infinity, -Infinity];
  #busy = false;
  #again = false;
  #frame = 0;

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
  };

  constructor(fetchPoints) {
    this.fetchPoints = fetchPoints;
    const axes = [
      [false, "linear", "Steps evenly spaced"],
      [true, "log", "Early steps spread out"],
    ];
    this.steps = segments("Step axis of all charts", axes, this.view.logSteps, (log) => {
      this.view.logSteps = log;
      this.#rebuild();
    });
    this.reset = el("button", { type: "button", class: "button", hidden: true, onclick: () => this.#zoom(null) }, "Show all steps");
    this.map = new PhaseMap((track) => this.#choose(track));
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
        el("div", { class: "tools-steps" }, el("span", { class: "tools-label" }, "Steps"), this.steps),
      ),
      this.jumps,
      this.groups,
    );
    this.resizes = new ResizeObserver(() => this.#cards.forEach((card) => card.resize()));
    this.resizes.observe(this.groups);
    this.sight = new IntersectionObserver((entries) => this.#sighted(entries), { rootMargin: "300px" });
    onTheme(() => this.#rebuild());
  }

  /** The quantities of the run: one card each, kept when they are known already. */
  setQuantities(quantities, outcomes) {
    for (const outcome of outcomes) this.view.outcomes.set(outcome.code, outcome);
    for (const quantity of quantities) {
      const known = this.#cards.findIndex((card) => card.quantity.name === quantity.name);
      if (known >= 0 && sameViews(this.#cards[known].quantity, quantity)) continue;
      const card = new Card(quantity, this.view, this.fetchPoints);
      if (known < 0) {
        this.#cards.push(card);
        this.#group(quantity.probe).append(card.root);
      } else {
        this.#cards[known].root.replaceWith(card.root);
        this.#cards[known] = card;
      }
      this.sight.observe(card.root);
    }
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

  /** The tracks of the run; those that changed phase are drawn until a person chooses otherwise. */
  setTracks(tracks) {
    this.#tracks = tracks;
    const keys = this.#shown ?? this.#first();
    this.map.set(tracks, keys);
    this.view.phases.tracks = foremost(tracks).filter((track) => keys.has(track.key));
    this.#repaint();
  }

  /** Where the set of trained parameters changed, see marks.js. */
  setMarks(marks) {
    if (marks.length === this.view.phases.marks.length) return; // they only ever grow in number
    this.view.phases.marks = marks;
    this.root.dataset.marks = marks.length;
    this.#repaint();
  }

  /** Show what a transition was judged by, on every chart; null for none. */
  highlight(transition, key) {
    this.view.phases.highlighted = transition && { transition, key };
    this.#repaint();
  }

  /** New points came. */
  tick() {
    for (const card of this.#cards) card.expect();
    this.refresh();
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

  #first() {
    const moved = foremost(this.#tracks.filter(hasMoved));
    const network = moved.filter(isWhole);
    return new Set((network.length ? network : moved).slice(0, MOST_TRACKS).map((track) => track.key));
  }

  #choose({ key }) {
    this.#shown ??= this.#first();
    if (!this.#shown.delete(key)) this.#shown.add(key);
    this.setTracks(this.#tracks);
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
