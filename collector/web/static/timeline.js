// Timeline: every claim of a phase machine, how far it has come, and on what evidence.

import { el, renew, say, swatch } from "./dom.js";
import { confidence, sentence, whole, words } from "./format.js";
import { figures } from "./evidence.js";
import { adviceOf, isBounded, phaseChip, toneOf, trackName } from "./phases.js";

const MOST_SHOWN = 6;

const STATES = {
  suspected: "Some evidence (an e-value of 10 or more), not enough to claim it. The agent was asked to measure more often. Nothing to do yet.",
  detected: "The evidence suffices: a false claim anywhere in the run is as rare as its alpha says.",
  confirmed: "It has stood for long enough, and a second test agrees.",
  retracted: "Withdrawn: it was not so, or is not so any more.",
  superseded: "Told by the rules of another version. The run was judged again, and by its present rules it is not so, or not at that step.",
};

export class Timeline {
  #pinned = null;
  #items = new Map();
  #all = false;

  /** `highlight(transition, trackKey)` shows a transition's evidence on the charts; with null, none. */
  constructor(highlight) {
    this.highlight = highlight;
    this.list = el("ol", { class: "timeline", reversed: true });
    this.none = el("p", { class: "quiet" }, "None yet. A transition appears here with its evidence as soon as it is certain enough.");
    this.more = el("button", { type: "button", class: "button timeline-more", hidden: true, onclick: () => this.#unfold() });
    const head = el("h2", { id: "timeline-title" }, "Transitions");
    this.root = el("section", { class: "panel", "aria-labelledby": "timeline-title" }, head, this.none, this.list, this.more);
  }

  /** All claims of the run. One that is on the page already stays where it is and says what became of it. */
  set(tracks, fresh) {
    const claims = tracks.flatMap((track) => track.episodes.map((episode) => ({ track, episode })));
    claims.sort((a, b) => a.episode.place - b.episode.place);
    this.none.hidden = claims.length > 0;
    for (const { track, episode } of claims) {
      const key = [track.key, episode.newest.ordinal].join();
      if (!this.#items.has(key)) {
        const item = this.#item(track.key);
        this.#items.set(key, item);
        this.list.prepend(item.root);
      }
      this.#tell(this.#items.get(key), track, episode, fresh);
    }
    this.#fold();
  }

  #unfold() {
    this.#all = !this.#all;
    this.#fold();
  }

  /** The latest claims; the earlier ones are a press away. */
  #fold() {
    const items = [...this.list.children];
    for (const [i, item] of items.entries()) item.hidden = !this.#all && i >= MOST_SHOWN;
    this.more.hidden = items.length <= MOST_SHOWN;
    say(this.more, this.#all ? "Show the latest only" : `Show ${items.length - MOST_SHOWN} earlier`);
  }

  #item(key) {
    const item = { key, transition: null, isOpen: false };
    const show = () => this.highlight(item.transition, key);
    const back = () => (this.#pinned ? this.highlight(this.#pinned.transition, this.#pinned.key) : this.highlight(null, null));
    item.pin = el("button", { type: "button", class: "button", "aria-pressed": "false" }, "Show on charts");
    item.pin.addEventListener("click", () => {
      const same = this.#pinned === item;
      this.#pinned?.pin.setAttribute("aria-pressed", "false");
      this.#pinned = same ? null : item;
      item.pin.setAttribute("aria-pressed", String(!same));
      back();
    });
    item.body = el("div", {});
    item.details = el("div", { class: "turn-details" });
    item.evidence = el("details", { class: "turn-evidence" }, el("summary", {}, "Evidence"), item.details);
    item.root = el("li", { onmouseenter: show, onmouseleave: back, onfocusin: show, onfocusout: back }, item.body, el("div", { class: "turn-more" }, item.evidence, item.pin));
    return item;
  }

  #tell(item, track, episode, fresh) {
    const { newest, state } = episode;
    const known = episode.states.length;
    if (item.known === known && item.state === state) return;
    const news = fresh && !(item.known === undefined && state === "suspected") && state !== "superseded"; // these come quietly
    item.known = known;
    item.state = state;
    item.transition = newest;
    const severe = newest.severity !== "info" && episode.stands;
    item.root.className = `turn turn-${state}${severe ? ` turn-${newest.severity}` : ""}${news ? " is-fresh" : ""}`;
    renew(item.body, [episode.states, state], () => claim(track, episode, severe));
    renew(item.details, newest, () => [
      el("p", {}, newest.evidence.sentence),
      ...newest.evidence.asides.map((aside) => el("p", { class: "turn-aside" }, el("strong", {}, "Beside it: "), aside)),
      figures(newest),
      newest.undo ? el("p", { class: "turn-undo" }, el("strong", {}, "Undo: "), newest.undo) : null,
    ].filter(Boolean));
  }
}

function claim(track, episode, severe) {
  const { newest, state, detected } = episode;
  const tentative = ["suspected", "superseded"].includes(state) || (state === "retracted" && !detected);
  const chip = (phase, asked) => phaseChip(words(phase), track.hues.get(phase) ?? 0, "", asked);
  return [
    el(
      "div",
      { class: "turn-head" },
      el("span", { class: "turn-machine" }, sentence(trackName(newest))),
      severe ? el("span", { class: "turn-severity" }, newest.severity) : null,
      el("span", { class: `turn-state turn-state-${state}`, title: STATES[state] }, state),
    ),
    el(
      "div",
      { class: "turn-phases" },
      chip((detected ?? newest).from_phase, false),
      el("span", { class: "arrow", "aria-label": "to" }, "→"),
      chip((detected ?? newest).to_phase, tentative),
    ),
    facts(episode, tentative ? null : toneOf(track, newest.to_phase)),
    course(episode),
    state === "superseded" ? el("p", { class: "turn-advice" }, STATES.superseded) : null,
    state === "retracted" ? withdrawn(episode) : adviceOf(episode, "turn-advice"),
  ].filter(Boolean);
}

function facts({ newest, detected, state }, ink) {
  const told = detected ?? newest;
  const between = ` ${told.happened_between.map(whole).join("–")}`;
  const fact = (name, mark, ...value) => el("div", {}, el("dt", {}, mark && ink ? swatch(mark, ink) : null, name), el("dd", {}, ...value));
  const sure = isBounded(told) ? confidence(told.confidence) : el("small", {}, "not bounded");
  return el(
    "dl",
    { class: "turn-facts" },
    fact(ink ? "happened" : state === "superseded" ? "told to be at" : "perhaps at", "solid", whole(told.happened_step), el("small", {}, between)),
    detected ? fact("known", "dotted", whole(detected.known_step)) : null,
    ["suspected", "retracted", "superseded"].includes(state) ? null : fact("confidence", null, sure),
  );
}

/** The states a claim has come through, each with the step whose report brought it. */
function course({ states }) {
  if (states.length < 2) return null;
  const way = states.map(({ state, known_step }) =>
    el("li", { class: `course-${state}` }, `${state} `, el("b", {}, whole(known_step))),
  );
  return el("ol", { class: "course", "aria-label": "States and the steps at which they became known" }, ...way);
}

function withdrawn({ newest, detected }) {
  const why = detected
    ? `Withdrawn at step ${whole(newest.known_step)}: the curve has come back.`
    : `The suspicion lapsed at step ${whole(newest.known_step)}; no phase was entered.`;
  return el("p", { class: "turn-advice" }, why, newest.advice ? [" ", el("strong", {}, "Undo: "), newest.advice] : null);
}
