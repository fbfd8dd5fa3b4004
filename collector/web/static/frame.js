// Frame: what every card has: its quantity's name and meaning, a plot with a readout, and room for a legend and switches.

import { el, say } from "./dom.js";
import { unitName } from "./format.js";
import { drawPlot, moveCursor, redraw } from "./plot.js";

export const SCALES = [
  [false, "lin", "Linear values"],
  [true, "log", "Logarithmic values"],
];

export class Frame {
  #plot = null;
  #shape = null;
  isLoaded = false;

  /** `told(u, shape)` says what the readout shows, see readout.js; `legend` and `switches` stand below the plot. */
  constructor(quantity, view, { told, legend, switches }) {
    this.quantity = quantity;
    this.view = view;
    this.told = told;
    this.legend = legend;
    this.#build(switches);
  }

  /** Whether there is a plot. */
  get isDrawn() {
    return this.#plot !== null;
  }

  /** Draw a shape; `afresh` where it has other series than the one before, or another axis or theme. */
  draw(shape, afresh) {
    const any = shape.list.length > 0 && shape.data[0].length > 0;
    const same = !afresh && this.#plot && this.#shape.list.length === shape.list.length && any;
    this.#shape = shape;
    this.root.dataset.points = String(shape.data[0].length);
    const why = this.#absence(shape);
    this.empty.hidden = why === "";
    say(this.empty, why);
    if (same) {
      redraw(this.#plot, shape);
    } else {
      this.#plot?.destroy();
      const drawable = any && this.host.clientWidth > 0;
      this.#plot = drawable ? drawPlot(this.host, this.view, this.quantity.name, shape, (u) => this.#read(u)) : null;
    }
    this.#read(this.#plot);
  }

  /** Why there is nothing to be seen; nothing where there is. */
  #absence({ data: [steps, ...columns], key, y }) {
    if (steps.length === 0) return this.isLoaded ? "No points yet." : (this.refusal ?? "Loading …");
    const isSeen = key ? key.low !== null : columns.some((column) => column.some((x) => x !== null && x !== undefined));
    return isSeen ? "" : `No value can be drawn${y.log ? " on a logarithmic axis" : ""}.`;
  }

  /** The points were not to be had; told where none are drawn. */
  refuse(sentence) {
    this.refusal = sentence;
    if (!this.isLoaded) say(this.empty, sentence);
  }

  /** Phases, the zoom or the axis changed, the points did not. */
  repaint() {
    redraw(this.#plot, this.#shape);
    this.#read(this.#plot);
  }

  /** Fit the plot to its room; false where there is none yet, and it must be drawn. */
  resize() {
    const { clientWidth: width, clientHeight: height } = this.host;
    const fits = !this.#plot || width === 0 || (width === this.#plot.width && height === this.#plot.height);
    if (!fits) this.#plot.setSize({ width, height });
    return this.#plot !== null || this.#shape === null;
  }

  /** Let one series stand out; null for none. */
  point(series) {
    if (!this.#plot) return;
    this.#plot.setSeries(series === null ? null : 1 + series * this.#shape.stride, { focus: series !== null });
  }

  /** How what is drawn was measured, and what of it the chart does not show. */
  note(settings, notes) {
    say(this.settings, settings);
    this.settings.title = settings;
    say(this.notes, notes.join(" · "));
    this.notes.hidden = notes.length === 0;
  }

  #build(switches) {
    const { name, title, help, unit } = this.quantity;
    const id = `q-${name}`;
    this.value = el("div", { class: "card-value" });
    this.caption = el("div", { class: "card-caption" });
    this.readout = el("div", { class: "card-readout" }, this.value, this.caption);
    const live = (politeness) => [this.readout, this.legend].forEach((node) => node.setAttribute("aria-live", politeness));
    this.host = el("div", {
      class: "plot",
      tabindex: 0,
      role: "group",
      "aria-label": `Chart of ${title}. Arrow keys move along the points, Escape shows all steps.`,
      onkeydown: (event) => this.#key(event),
      onfocusin: () => live("polite"),
      onfocusout: () => {
        live("off");
        this.#plot?.setCursor({ left: -10, top: -10 });
      },
    });
    this.tip = el("div", { class: "tip", hidden: true });
    this.empty = el("p", { class: "plot-empty quiet" }, "Loading …");
    this.notes = el("p", { class: "card-note", hidden: true });
    this.settings = el("p", { class: "card-settings", "aria-label": "Measured with" });
    const link = el("a", { class: "card-link", href: `#${encodeURIComponent(id)}`, title: "The address of this chart" }, title);
    this.root = el(
      "article",
      { class: "card", id, "data-quantity": name, "aria-labelledby": `${id}-title` },
      el(
        "header",
        { class: "card-head" },
        el("div", { class: "card-name" }, el("h3", { id: `${id}-title` }, link), el("span", { class: "card-unit" }, unitName(unit))),
        this.readout,
      ),
      el("p", { class: "card-help", title: help }, help),
      this.settings,
      el("div", { class: "plot-box" }, this.host, this.tip, this.empty),
      this.notes,
      el("footer", { class: "card-foot" }, this.legend, el("div", { class: "card-switches" }, ...switches)),
    );
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
    const { figure, caption, odd, tip } = this.told(u, this.#shape);
    say(this.value, figure);
    say(this.caption, caption);
    say(this.tip, tip ?? "");
    this.value.classList.toggle("is-odd", Boolean(odd));
    this.tip.hidden = !tip;
  }
}
