// Overlay: one quantity of several runs on one chart, each run in its colour, with its band, and in numbers below.

import { look, lookedAt, packed, unpacked } from "./address.js";
import { el, renew, say, swatch } from "./dom.js";
import { elapsed, labelled, whole, withError, words } from "./format.js";
import { Frame, SCALES } from "./frame.js";
import { differencesOf, settingsOf, unseenOf } from "./notes.js";
import { segments } from "./segments.js";
import { SeriesSet, placed } from "./series.js";
import { STANDARD_ERRORS, lines } from "./shapes.js";
import { colour } from "./theme.js";

const MOST_POINTS = 1000; // of each run: more than a chart has pixels to tell apart
const OK = 0;

export class Overlay {
  #sets = new Map();
  #news = new Map();
  #drawn = [];
  #rows = [];
  #wanted = true;

  /**
   * `runs()` are those to be seen: `{ id, name, short, tone, news, end, series }`, see compare.js; `fetchPoints(run, series, after, max)`
   * asks the collector.
   */
  constructor(quantity, view, { runs, fetchPoints }) {
    this.quantity = quantity;
    this.view = view;
    this.runs = runs;
    this.fetchPoints = fetchPoints;
    this.seen = false;
    this.#recall();
    this.scales = segments("Value axis", SCALES, this.log, (log) => this.#scaleTo(log));
    this.which = el("select", { class: "select", "aria-label": `Which series of ${quantity.title}`, hidden: true, onchange: () => this.#become(this.which.value) });
    this.figures = el("div", { class: "beside" });
    this.frame = new Frame(quantity, view, { told: (u, shape) => this.#told(u, shape), legend: this.figures, switches: [this.which, this.scales.root] });
    this.root = this.frame.root;
  }

  /** New points exist, or other runs are to be seen; see `news`. */
  expect() {
    this.#wanted = true;
  }

  get due() {
    return this.#wanted && this.seen;
  }

  /** Fetch what is new of each run and draw it; a run that comes for the first time does not wait for the others. */
  async refresh() {
    this.#wanted = false;
    this.#offer();
    await Promise.all(this.runs().map((run) => this.#fetch(run)));
    this.frame.isLoaded = true;
    this.draw();
  }

  async #fetch(run) {
    const series = this.#seriesOf(run);
    const key = series && setKey(run, series);
    if (!series || this.#news.get(key) === run.news) return;
    const { news } = run;
    const known = this.#sets.get(key);
    const set = known && known.longest <= 2 * MOST_POINTS ? known : new SeriesSet();
    set.take(await this.fetchPoints(run, series, set.frame, MOST_POINTS));
    this.#sets.set(key, set);
    this.#news.set(key, news);
    for (const { current } of set.list) {
      const end = current.step.at(-1) ?? 0;
      if (end <= run.end) continue;
      run.end = end;
      this.view.repaint();
    }
    if (!known) this.draw();
  }

  /** Draw what is known; `afresh` builds the chart anew. */
  draw(afresh = false) {
    const shown = this.runs().map((run) => ({ run, series: this.#placed(run) }));
    const drawn = shown.filter(({ series }) => series);
    const ids = drawn.map(({ run }) => run.id);
    const changed = ids.join() !== this.#drawn.map(({ run }) => run.id).join();
    this.#drawn = drawn;
    const list = drawn.map(({ series }) => series);
    for (const { current } of list) this.view.widen(current.step);
    const inks = drawn.map(({ run }) => colour(run.tone));
    const shape = lines(list, { log: this.log, ratio: this.quantity.unit === "ratio", range: () => this.view.range(), inks });
    this.#tabulate(shown);
    this.frame.draw(shape, afresh || changed);
    if (shown.length === 0) say(this.frame.empty, "Every run is hidden.");
    this.frame.note(settingsOf(list), [...differencesOf(list), ...unseenOf(list, this.log), ...this.#ranks()]);
  }

  /** Phases or the zoom changed, the points did not. */
  repaint() {
    if (this.frame.isDrawn) this.frame.repaint();
  }

  resize() {
    if (!this.frame.resize()) this.draw();
  }

  /** Back to what the address says; the board draws afterwards. */
  restore() {
    this.#recall();
    this.scales.press(this.log);
    this.#offer();
    this.expect();
  }

  /** As the address has it, else as the quantity is seen best. */
  #recall() {
    const said = lookedAt(`q.${this.quantity.name}`);
    this.log = said.includes("log") || (this.quantity.scale === "log" && !said.includes("lin"));
    this.wanted = said.find((item) => !["lin", "log"].includes(item)) ?? null;
  }

  #remember() {
    const scale = this.log === (this.quantity.scale === "log") ? null : this.log ? "log" : "lin";
    look({ [`q.${this.quantity.name}`]: [this.wanted === this.usual ? null : this.wanted, scale].filter(Boolean).join(",") });
  }

  #scaleTo(log) {
    this.log = log;
    this.#remember();
    this.draw(true);
  }

  #become(item) {
    this.wanted = item;
    this.#remember();
    this.#offer();
    this.draw(true);
    this.expect();
    this.view.refresh();
  }

  /** What can be chosen: the network and its layers, as far as any of the runs has them. */
  #offer() {
    const count = new Map();
    for (const run of this.runs()) for (const { labels } of run.series(this.quantity.name)) count.set(itemOf(labels), (count.get(itemOf(labels)) ?? 0) + 1);
    const items = [...count.keys()].sort((a, b) => Number(isLayer(a)) - Number(isLayer(b)));
    this.usual = items[0];
    this.item = items.includes(this.wanted) ? this.wanted : this.usual;
    const total = this.runs().length;
    const split = items.some((item) => unpacked(item).includes("split"));
    this.which.hidden = items.length < 2;
    renew(this.which, [items, [...count.values()], total], () =>
      items.map((item) => {
        const few = count.get(item) < total ? ` (${count.get(item)} of ${total} runs)` : "";
        return el("option", { value: item }, nameOf(item, split) + few);
      }),
    );
    this.which.value = this.item ?? "";
  }

  #seriesOf(run) {
    return run.series(this.quantity.name).find(({ labels }) => itemOf(labels) === this.item);
  }

  #known(run) {
    const series = this.#seriesOf(run);
    return series && this.#sets.get(setKey(run, series))?.list[0];
  }

  /** The points of a run at their places on the axis; none while it is not known where those are. */
  #placed(run) {
    const series = this.#known(run);
    if (!series || !this.view.axis.isApart || series.current.step.length === 0) return series;
    return run.clock.isKnown ? placed(series, run.clock.trained.at) : undefined;
  }

  /** A row for each run that is to be seen; what they say follows the cursor. */
  #tabulate(shown) {
    const standing = ({ run, series }) => (series ? "here" : this.#seriesOf(run) ? "loading …" : "not measured");
    const facts = shown.map((each) => [each.run.id, each.run.name, each.run.short, each.run.tone, standing(each)]);
    renew(this.figures, facts, () => {
      this.#rows = shown.map((each) => this.#row(each.run, standing(each)));
      return el(
        "table",
        { class: "beside-table" },
        el("caption", { class: "unseen" }, `${this.quantity.title} of each run`),
        el("thead", { class: "unseen" }, el("tr", {}, ...["run", "value", "step"].map((head) => el("th", { scope: "col" }, head)))),
        el("tbody", {}, ...this.#rows.map(({ root }) => root)),
      );
    });
  }

  #row(run, standing) {
    const value = standing === "here" ? el("td", { class: "beside-value" }) : el("td", { class: "quiet" }, standing);
    const step = el("td", { class: "quiet" });
    const at = () => this.#drawn.findIndex((each) => each.run.id === run.id);
    const point = () => at() >= 0 && this.frame.point(at());
    const name = el("th", { scope: "row", title: run.name }, swatch("line", `var(${run.tone})`), run.short);
    const root = el("tr", { onmouseenter: point, onmouseleave: () => this.frame.point(null) }, name, value, step);
    return { id: run.id, root, value, step };
  }

  /** Of each run the point nearest to the cursor, or the latest. */
  #told(u, shape) {
    const steps = shape?.data[0] ?? [];
    if (!u || steps.length === 0) return { figure: "", caption: "" };
    const here = u.cursor.left >= 0 ? steps[u.cursor.idx] : null;
    for (const { run, series } of this.#drawn) {
      const row = this.#rows.find(({ id }) => id === run.id);
      const { step, value, stderr, outcome, measured = step } = series.current;
      const i = here === null ? step.length - 1 : nearest(step, here);
      const known = this.view.outcomes.get(outcome[i]);
      const odd = outcome[i] !== OK;
      say(row.value, i < 0 ? "—" : value[i] === null ? words(known?.label ?? `outcome ${outcome[i]}`) : withError(value[i], stderr[i]));
      row.value.classList.toggle("is-odd", odd);
      row.value.title = odd ? (known?.sentence ?? "") : "";
      say(row.step, i < 0 ? "" : here !== null && here > step.at(-1) ? `last at ${whole(measured[i])}` : `step ${whole(measured[i])}`);
      row.step.classList.toggle("is-apart", i >= 0 && here !== null && step[i] !== here);
    }
    return { figure: shape.uncertain ? `band ±${STANDARD_ERRORS} stderr` : "no uncertainty given", caption: here === null ? "latest of each" : this.view.axis.isApart ? `after ${elapsed(here)}` : `at step ${whole(here)}` };
  }

  #ranks() {
    const several = this.#drawn.filter(({ run }) => this.#seriesOf(run).ranks > 1);
    return several.length > 0 ? [`of runs with several ranks the lowest is drawn`] : [];
  }
}

/** The index of the point at a step, or of the nearest one, of two the earlier: where the chart has its dot as well. */
function nearest(steps, step) {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  if (low === 0) return steps.length ? 0 : -1;
  return low < steps.length && steps[low] - step < step - steps[low - 1] ? low : low - 1;
}

function setKey(run, { labels }) {
  return JSON.stringify([run.id, labels]);
}

/** A series as one item of the address; that of the whole network is "network". */
function itemOf(labels) {
  return Object.keys(labels).length ? packed(Object.entries(labels).sort().flat()) : "network";
}

function isLayer(item) {
  return unpacked(item).includes("layer");
}

function nameOf(item, split) {
  if (item === "network") return split ? "probe set" : "network";
  const parts = unpacked(item);
  return labelled(Object.fromEntries(parts.flatMap((name, i) => (i % 2 ? [] : [[name, parts[i + 1]]]))));
}
