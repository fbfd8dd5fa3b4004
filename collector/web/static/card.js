// Card: one quantity of a run: the whole network, its layers as lines, or layers by steps in colour.

import { look, lookedAt } from "./address.js";
import { el } from "./dom.js";
import { labelled } from "./format.js";
import { Frame, SCALES } from "./frame.js";
import { heatmap } from "./heatmap.js";
import { tellLegend } from "./legend.js";
import { settingsOf, unseenOf } from "./notes.js";
import { readout } from "./readout.js";
import { segments } from "./segments.js";
import { SeriesSet } from "./series.js";
import { layers, lines } from "./shapes.js";

const MOST_POINTS = { whole: 4000, layers: 1000 };
const FORMS = { network: lines, layers, heatmap };

export class Card {
  #sets = { whole: new SeriesSet(), layers: new SeriesSet() };
  #near = null;
  #wanted = true;

  /** `view` is shared by all cards; `fetchPoints(quantity, series, { after, max, from, to })` asks the collector. */
  constructor(quantity, view, fetchPoints) {
    this.quantity = quantity;
    this.view = view;
    this.fetchPoints = fetchPoints;
    this.seen = false;
    this.#recall();
    this.keys = el("div", { class: "legend" });
    this.modes = segments("What is drawn", this.#offered, this.mode, (mode) => this.#become(mode));
    this.scales = segments("Value axis", SCALES, this.log, (log) => this.#scaleTo(log));
    const switches = this.#offered.length > 1 ? [this.modes.root, this.scales.root] : [this.scales.root];
    const told = (u, shape) => readout(u, shape, this.#names(this.#list), view, this.#all);
    this.frame = new Frame(quantity, view, { told, legend: this.keys, switches });
    this.root = this.frame.root;
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
    const kind = this.#kind;
    const most = MOST_POINTS[kind];
    const known = this.#sets[kind];
    const grown = known.longest > 2 * most;
    const answer = await this.fetchPoints(this.quantity.name, kind, { after: grown ? 0 : known.frame, max: most });
    if (grown) this.#sets[kind] = new SeriesSet();
    this.#sets[kind].take(answer);
    this.frame.isLoaded = true;
    for (const series of this.#sets[kind].list) this.view.widen(series.current.step);
    await this.#comeNear(kind, most);
    if (kind === this.#kind) this.draw();
  }

  /** Where points of the stretch that is zoomed in on are left out, fetch those as well, a little beyond its ends. */
  async #comeNear(kind, max) {
    const { zoomed } = this.view;
    if (!zoomed || !this.#isFolded(kind)) return;
    const beyond = (zoomed[1] - zoomed[0]) / 10;
    const last = Math.max(...this.#sets[kind].list.map(({ current }) => current.step.at(-1) ?? 0));
    const near = this.#near?.kind === kind && this.#near.zoomed === zoomed ? this.#near : null;
    if (near && near.last <= last && zoomed[1] + beyond < near.last) return; // what came since lies elsewhere
    const [from, to] = [Math.max(Math.floor(zoomed[0] - beyond), 0), Math.ceil(zoomed[1] + beyond)];
    const set = new SeriesSet();
    set.take(await this.fetchPoints(this.quantity.name, kind, { max, from, to }));
    this.#near = { kind, zoomed, last, set };
  }

  #isFolded(kind) {
    return this.#sets[kind].list.some(({ folded }) => folded > 0);
  }

  /** The zoom has changed: what is left out of its stretch is fetched when the card is on screen. */
  zoom() {
    if (this.view.zoomed && this.#isFolded(this.#kind)) this.expect();
    if (this.view.zoomed || !this.#near) return;
    this.#near = null;
    this.draw();
  }

  /** Draw what is known; `afresh` builds the chart anew, as a changed axis, mode or theme asks for. */
  draw(afresh = false) {
    const list = this.#list;
    const shape = FORMS[this.mode](list, { log: this.log, ratio: this.quantity.unit === "ratio", range: () => this.view.range() });
    this.frame.draw(shape, afresh);
    tellLegend(this.keys, shape, this.#names(list), this.quantity.unit);
    this.frame.note(settingsOf(list), this.#notes(list));
  }

  /** Phases or the zoom changed, the points did not. */
  repaint() {
    if (!this.frame.isDrawn) return;
    if (this.mode === "heatmap") this.draw(); // its colours span what is in view
    else this.frame.repaint();
  }

  resize() {
    if (!this.frame.resize()) this.draw();
  }

  /** Back to what the address says. */
  restore() {
    const before = [this.mode, this.log];
    this.#recall();
    if (before[0] === this.mode && before[1] === this.log) return;
    this.modes.press(this.mode);
    this.scales.press(this.log);
    this.#show();
  }

  get #kind() {
    return this.mode === "network" ? "whole" : "layers";
  }

  get #offered() {
    const { whole: wholeCount, layers: layerCount } = this.quantity;
    return [
      wholeCount > 0 && ["network", "network", "The whole network"],
      layerCount > 0 && ["layers", "layers", "One line per layer"],
      layerCount > 0 && ["heatmap", "heatmap", "Layers by steps, in colour"],
    ].filter(Boolean);
  }

  /** As the address has it, else as the quantity is seen best. */
  #recall() {
    const said = lookedAt(`q.${this.quantity.name}`);
    const offered = this.#offered.map(([mode]) => mode);
    this.mode = offered.find((mode) => said.includes(mode)) ?? offered[0] ?? "network";
    this.log = said.includes("log") || (this.quantity.scale === "log" && !said.includes("lin"));
  }

  #remember() {
    const mode = this.mode === this.#offered[0]?.[0] ? null : this.mode;
    const scale = this.log === (this.quantity.scale === "log") ? null : this.log ? "log" : "lin";
    look({ [`q.${this.quantity.name}`]: [mode, scale].filter(Boolean).join(",") });
  }

  #become(mode) {
    this.mode = mode;
    this.#remember();
    this.#show();
  }

  #scaleTo(log) {
    this.log = log;
    this.#remember();
    this.draw(true);
  }

  #show() {
    this.draw(true);
    this.expect();
    this.view.refresh();
  }

  /** What is drawn now. */
  get #list() {
    const isNear = this.#near?.kind === this.#kind && this.#near.zoomed === this.view.zoomed;
    return this.#drawn((isNear ? this.#near.set : this.#sets[this.#kind]).list);
  }

  /** The same of all steps. */
  get #all() {
    return this.#drawn(this.#sets[this.#kind].list);
  }

  /** Of the layers only one rank's: the same layer of several ranks would not be told apart. */
  #drawn(list) {
    if (this.mode === "network") return list;
    const first = Math.min(...list.map((series) => series.rank));
    return list.filter((series) => series.rank === first);
  }

  #names(list) {
    const ranks = new Set(list.map((series) => series.rank)).size;
    const split = list.some(({ labels }) => "split" in labels); // then what has none is of the probe set
    if (this.mode === "network") return list.map((series) => series.name(ranks, split && !("split" in series.labels)));
    return list.map(({ labels: { layer, ...others } }) => [layer, labelled(others)].filter(Boolean).join(", "));
  }

  #notes(list) {
    const notes = unseenOf(list, this.log);
    const ranks = new Set(this.#sets.layers.list.map((series) => series.rank));
    if (this.mode !== "network" && ranks.size > 1) notes.push(`rank ${Math.min(...ranks)} of ${ranks.size} drawn`);
    return notes;
  }
}
