// Timeline: every transition with when it happened, when it was known, and on what evidence.

import { el, swatch } from "./dom.js";
import { confidence, number, percent, sentence, whole, withError, words } from "./format.js";
import { inkOf, phaseChip, trackKey, trackName } from "./phases.js";

export class Timeline {
  #pinned = null;
  #items = new Map();

  /** `highlight(transition, trackKey)` shows a transition's evidence on the charts; with null, none. */
  constructor(highlight) {
    this.highlight = highlight;
    this.list = el("ol", { class: "timeline", reversed: true });
    this.none = el("p", { class: "quiet" }, "None yet. A transition appears here with its evidence as soon as it is certain enough.");
    const head = el("h2", { id: "timeline-title" }, "Transitions");
    this.root = el("section", { class: "panel", "aria-labelledby": "timeline-title" }, head, this.none, this.list);
  }

  /** All transitions of the run, in the order they became known; those on the page already stay as they are. */
  set(stored, tracks, fresh) {
    this.none.hidden = stored.length > 0;
    for (const { transition } of stored) {
      const key = [trackKey(transition.machine, transition.subject), transition.ordinal].join();
      if (this.#items.has(key)) continue;
      const track = tracks.find((each) => each.key === trackKey(transition.machine, transition.subject));
      const item = this.#item(transition, track, fresh);
      this.#items.set(key, item);
      this.list.prepend(item);
    }
  }

  #item(transition, track, fresh) {
    const { key } = track;
    const chip = (phase) => phaseChip(words(phase), track.hues.get(phase) ?? 0);
    const show = () => this.highlight(transition, key);
    const back = () => (this.#pinned ? this.highlight(...this.#pinned.target) : this.highlight(null, null));
    const pin = el("button", { type: "button", class: "button", "aria-pressed": "false" }, "Show evidence on charts");
    pin.addEventListener("click", () => {
      const same = this.#pinned?.pin === pin;
      this.#pinned?.pin.setAttribute("aria-pressed", "false");
      this.#pinned = same ? null : { pin, target: [transition, key] };
      pin.setAttribute("aria-pressed", String(!same));
      back();
    });
    return el(
      "li",
      {
        class: `turn turn-${transition.severity}${fresh ? " is-fresh" : ""}`,
        onmouseenter: show,
        onmouseleave: back,
        onfocusin: show,
        onfocusout: back,
      },
      el(
        "div",
        { class: "turn-head" },
        el("span", { class: "turn-machine" }, sentence(trackName(transition))),
        transition.severity === "info" ? null : el("span", { class: "turn-severity" }, transition.severity),
      ),
      el(
        "div",
        { class: "turn-phases" },
        chip(transition.from_phase),
        el("span", { class: "arrow", "aria-label": "to" }, "→"),
        chip(transition.to_phase),
      ),
      facts(transition, inkOf(track, transition.to_phase)),
      transition.advice ? el("p", { class: "turn-advice" }, transition.advice) : null,
      el(
        "details",
        { class: "turn-evidence" },
        el("summary", {}, "Evidence"),
        el("p", {}, transition.evidence.sentence),
        figures(transition),
        transition.undo ? el("p", { class: "turn-undo" }, el("strong", {}, "Undo: "), transition.undo) : null,
      ),
      pin,
    );
  }
}

function facts(transition, ink) {
  const between = ` ${transition.happened_between.map(whole).join("–")}`;
  const fact = (name, mark, ...value) => el("div", {}, el("dt", {}, mark && swatch(mark, ink), name), el("dd", {}, ...value));
  return el(
    "dl",
    { class: "turn-facts" },
    fact("happened", "solid", whole(transition.happened_step), el("small", {}, between)),
    fact("known", "dotted", whole(transition.known_step)),
    fact("confidence", null, confidence(transition.confidence)),
  );
}

function figures({ evidence, machine, machine_version: version }) {
  const rows = [
    ["Quantity", words(evidence.quantity)],
    ["Statistic", evidence.statistic],
    ["Before", windowText(evidence.before), windowSpan(evidence.before)],
    ["After", windowText(evidence.after), windowSpan(evidence.after)],
    ["Change", evidence.change === null ? "—" : `${evidence.change > 0 ? "+" : "−"}${percent(Math.abs(evidence.change), 3)}`],
    ["log e", number(evidence.log_e), `fires at ${number(Math.log(1 / evidence.alpha), 3)}`],
    ["Alpha", number(evidence.alpha), "chance of a false alarm, at most, in the whole run"],
    ["Noise", percent(evidence.noise), "of one point, relative to the level"],
    ["Points", whole(evidence.points), `${whole(evidence.cleaned)} cleaned`],
    ["Rule", words(machine), `version ${version}`],
  ];
  const row = ([name, value, note]) =>
    el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value, note ? el("small", {}, note) : null));
  return el("table", { class: "figures" }, el("tbody", {}, ...rows.map(row)));
}

function windowText(window) {
  return withError(window.mean, window.stderr);
}

function windowSpan(window) {
  return `${whole(window.n)} points, steps ${whole(window.first_step)}–${whole(window.last_step)}`;
}
