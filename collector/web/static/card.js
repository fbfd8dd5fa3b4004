// Card: one quantity with its title, its meaning, its chart and what can be switched about it.

import { el, say } from "./dom.js";
import { labelled, unitName, whole } from "./format.js";
import { heatmap } from "./heatmap.js";
import { tellLegend } from "./legend.js";
import { drawPlot, moveCursor, redraw } from "./plot.js";
import { readout } from "./readout.js";
import { segments } from "./segments.js";
import { SeriesSet, unseen } from "./series.js";
import { layers, lines } from "./shapes.js";

/** Settings that tell series apart for detection; to a person they say nothing. */
const IDENTITIES = new Set(["probe", "probe_set", "seed", "configuration"]);

const MOST_POINTS = { whole: 4000, layers: 1000 };

export class Card {
  #sets = { whole: new SeriesSet(), layers: new SeriesSet() };
  #plot = null;
  #shape = null;
  #wanted = true;

  /** `view` is shared by all cards; `fetchPoints(quantity, series, after, max)` asks the collector. */
  constructor(quantity, view, fetchPoints) {
    this.quantity = quantity;
    this.view = view;
    this.fetchPoints = fetchPoints;
    this.log = quantity.scale === "log";
    this.mode = quantity.whole > 0 ? "lines" : "layers";
    this.seen = false;
    this.#build();
  }

  /** New points exist; they are fetched when the card is on screen. */
  expect() {
    this.#wanted = true;
  }

  get due() {
    return this.#wanted && this.seen;
  }

  /** Fetch what is new and draw it. */
  async refresh() {
    this.#wanted = false;
    const kind = this.mode === "lines" ? "whole" : "layers";
    const most = MOST_POINTS[kind];
    const known = this.#sets[kind];
    const grown = known.longest > 2 * most;
    const answer = await this.fetchPoints(this.quantity.name, kind, grown ? 0 : known.frame, most);
    if (grown) this.#sets[kind] = new SeriesSet();
    this.#sets[kind].take(answer);
    for (const series of this.#sets[kind].list) this.view.widen(series.current.step);
    if (kind === (this.mode === "lines" ? "whole" : "layers")) this.draw();
  }

  /** Draw what is known; `afresh` builds the chart anew, as a changed axis, mode or theme asks for. */
  draw(afresh = false) {
    const list = this.#list;
    const names = this.#names(list);
    const range = () => this.view.range();
    const form = { lines, layers, heatmap }[this.mode];
    const shape = form(list, { log: this.log, ratio: this.quantity.unit === "ratio", range });
    const same = !afresh && this.#plot && this.#shape.list.length === list.length && list.length > 0;
    this.#shape = shape;
    this.root.dataset.points = String(shape.data[0].length);
    this.empty.hidden = shape.data[0].length > 0;
    if (same) {
      redraw(this.#plot, shape);
    } else {
      this.#plot?.destroy();
      const drawable = list.length > 0 && this.host.clientWidth > 0;
      this.#plot = drawable ? drawPlot(this.host, this.view, this.quantity.name, shape, (u) => this.#read(u)) : null;
    }
    tellLegend(this.keys, shape, names, this.quantity.unit);
    this.#tellSettings(list);
    this.#notes(list);
    this.#read(this.#plot);
  }

  /** Phases or the zoom changed, the points did not. */
  repaint() {
    if (!this.#plot) return;
    if (this.mode === "heatmap") this.draw(); // its colours span what is in view
    else redraw(this.#plot, this.#shape);
  }

  resize() {
    const width = this.host.clientWidth;
    if (this.#plot && width > 0 && width !== this.#plot.width) this.#plot.setSize({ width, height: this.host.clientHeight });
    if (!this.#plot && this.#shape) this.draw();
  }

  /** What is drawn now. Of the layers only one rank's: the same layer of several ranks would not be told apart. */
  get #list() {
    if (this.mode === "lines") return this.#sets.whole.list;
    const { list } = this.#sets.layers;
    const first = Math.min(...list.map((series) => series.rank));
    return list.filter((series) => series.rank === first);
  }

  #names(list) {
    const ranks = new Set(list.map((series) => series.rank)).size;
    const split = list.some(({ labels }) => "split" in labels); // then what has none is of the probe set
    if (this.mode === "lines") return list.map((series) => series.name(ranks, split && !("split" in series.labels)));
    return list.map(({ labels: { layer, ...others } }) => [layer, labelled(others)].filter(Boolean).join(", "));
  }

  #build() {
    const { name, title, help, layers: layerCount, whole: wholeCount } = this.quantity;
    const id = `q-${name}`;
    this.value = el("div", { class: "card-value" });
    this.caption = el("div", { class: "card-caption" });
    this.readout = el("div", { class: "card-readout" }, this.value, this.caption);
    this.host = el("div", {
      class: "plot",
      tabindex: 0,
      role: "group",
      "aria-label": `Chart of ${title}. Arrow keys move along the points, Escape shows all steps.`,
      onkeydown: (event) => this.#key(event),
      onfocusin: () => this.readout.setAttribute("aria-live", "polite"),
      onfocusout: () => {
        this.readout.setAttribute("aria-live", "off");
        this.#plot?.setCursor({ left: -10, top: -10 });
      },
    });
    this.tip = el("div", { class: "tip", hidden: true });
    this.empty = el("p", { class: "plot-empty quiet" }, "No points yet.");
    this.keys = el("div", { class: "legend" });
    this.note = el("p", { class: "card-note", hidden: true });
    this.settings = el("p", { class: "card-settings", "aria-label": "Measured with" });
    const modes = [
      wholeCount > 0 && ["lines", "network", "The whole network"],
      layerCount > 0 && ["layers", "layers", "One line per layer"],
      layerCount > 0 && ["heatmap", "heatmap", "Layers by steps, in colour"],
    ].filter(Boolean);
    const scales = [
      [false, "lin", "Linear values"],
      [true, "log", "Logarithmic values"],
    ];
    const switches = [
      modes.length > 1 && segments("What is drawn", modes, this.mode, (mode) => this.#become(mode)),
      segments("Value axis", scales, this.log, (log) => this.#scaleTo(log)),
    ].filter(Boolean);
    this.root = el(
      "article",
      { class: "card", id, "data-quantity": name, "aria-labelledby": `${id}-title` },
      el(
        "header",
        { class: "card-head" },
        el(
          "div",
          { class: "card-name" },
          el("h3", { id: `${id}-title` }, title),
          el("span", { class: "card-unit" }, unitName(this.quantity.unit)),
        ),
        this.readout,
      ),
      el("p", { class: "card-help", title: help }, help),
      this.settings,
      el("div", { class: "plot-box" }, this.host, this.tip, this.empty),
      this.note,
      el("footer", { class: "card-foot" }, this.keys, el("div", { class: "card-switches" }, ...switches)),
    );
  }

  #become(mode) {
    this.mode = mode;
    this.draw(true);
    this.expect();
    this.view.refresh();
  }

  #scaleTo(log) {
    this.log = log;
    this.draw(true);
  }

  #key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (by && this.#plot) moveCursor(this.#plot, by);
    else if (event.key === "Escape") this.view.zoom(null);
    else return;
    event.preventDefault();
  }

  /** The number at the cursor, or the latest one. */
  #read(u) {
    const { figure, caption, odd, tip } = readout(u, this.#shape, this.#names(this.#list), this.quantity, this.view.outcomes);
    say(this.value, figure);
    say(this.caption, caption);
    say(this.tip, tip ?? "");
    this.value.classList.toggle("is-odd", Boolean(odd));
    this.tip.hidden = !tip;
  }

  /** How all that is drawn was measured; what differs between series is in their names. */
  #tellSettings(list) {
    const shared = Object.entries(list[0]?.settings ?? {}).filter(
      ([name, value]) => !IDENTITIES.has(name) && list.every((series) => series.settings[name] === value),
    );
    const told = shared.map((setting) => labelled(Object.fromEntries([setting]))).join(" · ");
    say(this.settings, told);
    this.settings.title = told;
  }

  /** What the chart does not show, said in words. */
  #notes(list) {
    const counts = unseen(list, this.log);
    const parts = [];
    const points = (n) => `${whole(n)} ${n === 1 ? "point" : "points"}`;
    if (counts.notOk) parts.push(`▲ ${points(counts.notOk)} not ok`);
    if (counts.below) parts.push(`${points(counts.below)} at or below zero not shown on a log axis`);
    if (counts.folded) parts.push(`${points(counts.folded)} between those drawn left out, extremes kept`);
    if (counts.abandoned) parts.push(`${points(counts.abandoned)} from before training went back to an earlier step not drawn`);
    const ranks = new Set(this.#sets.layers.list.map((series) => series.rank));
    if (this.mode !== "lines" && ranks.size > 1) parts.push(`rank ${Math.min(...ranks)} of ${ranks.size} drawn`);
    say(this.note, parts.join(" · "));
    this.note.hidden = parts.length === 0;
  }
}
