// Phase map: a line per machine, or per run, from the first step to now; a press on a name draws it on the charts.

import { el, renew, say } from "./dom.js";
import { confidence, labelled, whole, words } from "./format.js";
import { isBounded, toneOf, trackName } from "./phases.js";
import { axisOf } from "./xaxis.js";

const MOST_OFFERED = 12;
const PIXELS_PER_TICK = 58;
const LEGEND = "solid: happened · underlined: may have happened · dotted: known";

export class PhaseMap {
  #all = false;
  #placed = [];
  #ends = [0, 1];
  #reach = [0, 1];
  #across = axisOf("log");
  #facts = null;

  /** `choose(track)` is told of the track whose row was pressed; `what` they are and `how` a press is meant stand above, and `most` rows below. */
  constructor(choose, { what = "Phases of the run", how = "press a name to see it on the charts", select = null, most = 6 } = {}) {
    this.choose = choose;
    this.most = most;
    this.rows = el("div", { class: "map-rows track-switches" });
    this.axis = el("div", { class: "map-axis", "aria-hidden": "true" });
    this.counted = el("span", {}, "step");
    this.lens = el("i", { class: "map-lens", "aria-hidden": "true", hidden: true });
    this.more = el("button", { type: "button", class: "button map-more", hidden: true, onclick: () => this.#unfold() });
    this.others = el("p", { class: "quiet", hidden: true });
    this.root = el(
      "section",
      { class: "panel map", "aria-labelledby": "map-title", hidden: true },
      el("h2", { id: "map-title" }, what, select, el("span", { class: "quiet" }, `${LEGEND} · ${how}`)),
      el("div", { class: "map-body" }, this.rows, el("div", { class: "map-scale" }, this.counted, this.axis), el("div", { class: "map-zone" }, this.lens)),
      this.more,
      this.others,
    );
    new ResizeObserver(() => this.#scale()).observe(this.axis);
  }

  /** Tracks, the foremost first, see phases.js; those in `drawn`, a set of their keys, are pressed. */
  set(tracks, drawn) {
    const offered = tracks.slice(0, MOST_OFFERED);
    this.others.hidden = tracks.length <= MOST_OFFERED;
    this.others.textContent = `${whole(tracks.length - MOST_OFFERED)} more have left their first phase; all are under “Phases now”.`;
    this.#facts = [tracks, drawn];
    this.root.hidden = offered.length === 0;
    this.more.hidden = offered.length <= this.most;
    this.more.textContent = this.#all ? "Show fewer" : `Show ${offered.length - this.most} more`;
    const shown = this.#all ? offered : offered.slice(0, this.most);
    renew(this.rows, shown.map((track) => [track.key, track.name, drawn.has(track.key), track.spans, track.episodes]), () => {
      const focused = this.rows.contains(document.activeElement) && document.activeElement.dataset.key;
      this.#placed = [];
      const rows = shown.map((track) => this.#row(track, drawn.has(track.key)));
      if (focused) requestAnimationFrame(() => this.#name(focused)?.focus());
      return rows;
    });
    this.#place();
    this.#scale();
  }

  /** The first and last step of the run, the stretch of it that the charts show, or null for all, and their axis. */
  span(ends, zoomed, axis) {
    this.#ends = ends;
    this.#across = axis;
    this.#place();
    this.lens.hidden = !zoomed;
    if (zoomed) this.#put(this.lens, ...zoomed);
    this.#scale();
  }

  #unfold() {
    this.#all = !this.#all;
    this.set(...this.#facts);
  }

  #name(key) {
    return [...this.rows.querySelectorAll("button")].find((each) => each.dataset.key === key);
  }

  #row(track, drawn) {
    const course = el("div", { class: "map-course" });
    const at = track.at ?? ((step) => step);
    const end = () => at(track.end());
    for (const span of track.spans) {
      const kind = span.withdrawn ? "map-span is-withdrawn" : "map-span";
      const text = span.withdrawn ? `${words(span.phase)}, withdrawn` : words(span.phase);
      const title = `${text}: from step ${whole(span.since_step)}${span.until_step === null ? "" : ` to ${whole(span.until_step)}`}. ${span.meaning}`;
      course.append(this.#stretch(el("span", { class: kind, title }, span.withdrawn ? "" : text), toneOf(track, span.phase), () => at(span.since_step), span.until_step === null ? track.end && end : () => at(span.until_step)));
    }
    for (const { to_phase: phase, happened_step: happened, happened_between: between, known_step: known } of track.transitions) {
      if (!track.spans.some((span) => span.phase === phase && span.since_step === happened)) continue; // judged again, and not so any more
      course.append(this.#stretch(el("i", { class: "map-between", title: `Between steps ${between.map(whole).join(" and ")}` }), toneOf(track, phase), ...between.map((step) => () => at(step))));
      course.append(this.#stretch(el("i", { class: "map-known", title: `Known at step ${whole(known)}` }), toneOf(track, phase), () => at(known), () => at(known)));
    }
    const name = el(
      "button",
      { type: "button", class: "button map-name", title: track.name ?? trackName(track), "data-key": track.key, "aria-pressed": String(drawn), onclick: () => this.choose(track) },
      track.name ?? [labelled(track.subject), words(track.machine)].filter(Boolean).join(", "), // first what differs, for the end may be cut off
    );
    if (track.tone) name.style.setProperty("--colour", `var(${track.tone})`);
    return el("div", { class: "map-row" }, name, course, standing(track));
  }

  /** A child of a row from `from()` to `to()`, kept to be moved as the run grows and the axis changes; where it lasts, to the end of all. */
  #stretch(node, ink, from, to) {
    node.style.setProperty("--colour", ink);
    this.#placed.push({ node, from, to });
    return node;
  }

  #place() {
    const [low, high] = this.#ends; // phases may be known before the charts have their points
    this.#reach = [low, Math.max(high, ...this.#placed.map(({ from }) => from()).filter(Number.isFinite))];
    for (const { node, from, to } of this.#placed) this.#put(node, from(), to?.() ?? this.#reach[1]);
  }

  #put(node, from, to) {
    const [left, right] = [this.#share(from), this.#share(to)];
    node.style.setProperty("left", `${100 * left}%`);
    node.style.setProperty("width", `${100 * Math.max(right - left, 0)}%`);
  }

  /** Where a step is, from 0 to 1, on the axis that the charts have. */
  #share(step) {
    const [low, high] = this.#reach;
    const { at } = this.#across;
    return Math.min(Math.max((at(step) - at(low)) / (at(high) - at(low) || 1), 0), 1);
  }

  #scale() {
    const [low, high] = this.#reach;
    const room = Math.floor(this.axis.clientWidth / PIXELS_PER_TICK);
    if (room < 1) return;
    const { ticks, label } = this.#across.ticks(low, high, room);
    const within = ticks.filter(({ at }) => at >= low && at <= high).map(({ at, text }) => ({ share: this.#share(at), text }));
    const shown = within.filter(({ share }) => share < 0.98);
    say(this.counted, label);
    renew(this.axis, shown, () =>
      shown.map(({ share, text }) => {
        const node = el("span", {}, text);
        node.style.setProperty("left", `${100 * share}%`);
        return node;
      }),
    );
  }
}

/** How far the newest claim of a machine has come, and how sure it is. */
function standing({ episodes }) {
  const last = episodes.findLast((each) => each.state === "suspected" || each.stands);
  if (!last) return el("span", { class: "map-standing" }, episodes.length === 0 ? el("small", {}, "no transition") : null);
  const { newest, state } = last;
  const told = state === "suspected" ? `${words(newest.to_phase)}?` : isBounded(newest) ? confidence(newest.confidence) : "no bound";
  return el("span", { class: "map-standing" }, el("small", {}, told), el("span", { class: `turn-state turn-state-${state}` }, state));
}
