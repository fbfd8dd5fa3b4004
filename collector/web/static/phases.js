// Phases: where a run is, in words; the claims made of it; and the tracks that the charts paint.

import { packed } from "./address.js";
import { el, swatch } from "./dom.js";
import { confidence, labelled, sentence, whole, words } from "./format.js";
import { phaseColour, phaseTone } from "./palette.js";

const MOST_LINES = 8;
const FEW = 4;
const SEVERITIES = ["info", "warning", "critical"];

/** One claim of a machine from the first suspicion on: its states in the order they became known. */
class Episode {
  states = [];
  superseded = false;

  /** `place` is that of its first state among all that became known of the run. */
  constructor(place) {
    this.place = place;
  }

  /** A state became known. What earlier rules told and these do not find counts only where these tell nothing of the claim. */
  take(transition, superseded) {
    if (this.states.length > 0 && superseded && !this.superseded) return;
    if (this.superseded && !superseded) this.states = [];
    this.superseded = superseded;
    this.states.push(transition);
  }

  /** What was told last. */
  get newest() {
    return this.states.at(-1);
  }

  get state() {
    return this.superseded ? "superseded" : this.newest.state;
  }

  /** The claim as it was detected, when the phase was entered; undefined while it is only suspected, or lapsed. */
  get detected() {
    return this.states.find(({ state }) => state === "detected");
  }

  /** Whether a phase was entered by it and has not been withdrawn. */
  get stands() {
    return this.detected !== undefined && !["retracted", "superseded"].includes(this.state);
  }
}

/** One machine on one subject: its phases in order, its claims, and of these the transitions that stand. */
export function tracksOf(spans, stored) {
  const tracks = new Map();
  const track = (machine, subject) => {
    const key = trackKey(machine, subject);
    if (!tracks.has(key)) tracks.set(key, { key, machine, subject, spans: [], episodes: [], hues: new Map() });
    return tracks.get(key);
  };
  for (const span of spans) {
    const { spans: known, hues } = track(span.machine, span.subject);
    known.push({ ...span });
    hues.set(span.phase, span.hue);
  }
  for (const [place, { transition, superseded }] of stored.entries()) {
    const { episodes } = track(transition.machine, transition.subject);
    let episode = episodes.find((each) => each.newest.ordinal === transition.ordinal);
    if (!episode) episodes.push((episode = new Episode(place)));
    episode.take(transition, superseded);
  }
  for (const found of tracks.values()) {
    found.transitions = found.episodes.filter((each) => each.stands).map((each) => each.detected);
    found.suspected = found.episodes.find((each) => each.state === "suspected");
    markWithdrawn(found);
  }
  const known = (each) => each.episodes.at(-1)?.newest.known_step ?? -1;
  return [...tracks.values()].sort((a, b) => known(b) - known(a)); // the latest news first
}

/** Whether there is more to say of a track than the phase it began in. */
export function hasMoved(track) {
  return track.transitions.length > 0 || track.spans.length > 1;
}

/** Whether a track is of the whole network, and not of a layer. */
export function isWhole({ subject }) {
  return !("layer" in subject);
}

/** Spans entered by claims that were withdrawn: the run was held to be there, and was not. */
function markWithdrawn({ spans, episodes }) {
  for (const { state, detected } of episodes) {
    if (state !== "retracted" || !detected) continue;
    const span = spans.find((each) => each.phase === detected.to_phase && each.since_step === detected.happened_step);
    if (span) span.withdrawn = true;
  }
}

/** The colour of a phase of a track. */
export function inkOf(track, phase) {
  return phaseColour(track.hues.get(phase) ?? 0);
}

/** The same for an element of the page. */
export function toneOf(track, phase) {
  return phaseTone(track.hues.get(phase) ?? 0);
}

/** What a track is known by. */
export function trackKey(machine, subject) {
  return JSON.stringify([machine, Object.entries(subject).sort()]);
}

/** The same in the page's address. */
export function trackItem({ machine, subject }) {
  return packed([machine, ...Object.entries(subject).sort().flat()]);
}

/** "critical period" or, of a layer, "critical period, layer fc1". */
export function trackName({ machine, subject }) {
  return [words(machine), labelled(subject)].filter(Boolean).join(", ");
}

/** "critical period: early", but only "after critical period" where the phase already says whose it is. */
export function phaseName(machine, phase) {
  return phase.includes(machine) ? words(phase) : `${words(machine)}: ${words(phase)}`;
}

/** A phase as a chip with its colour; with `tentative` without one, for it may not be so. */
export function phaseChip(text, hue, meaning = "", tentative = false) {
  const dot = tentative ? el("i", { class: "swatch swatch-hollow", "aria-hidden": "true" }) : swatch("dot", phaseTone(hue));
  return el("span", { class: `chip${tentative ? " is-tentative" : ""}`, title: meaning || null }, dot, text);
}

/** Why the phases may lag behind the curves; nothing where they do not. */
export function judgingAgain(progress) {
  if (!progress) return null;
  const far = `Judging again, as after an upgrade: ${whole(progress.judged)} of ${whole(progress.reports)} reports.`;
  return el("p", { class: "quiet" }, `${far} Until then the phases are those told before.`);
}

/** Where the run is by every machine that has something to say; the others in one line. */
export function phaseSummary(tracks) {
  if (tracks.length === 0) {
    return el("p", { class: "quiet" }, "No phase has been told apart yet. Machines speak once their curve has enough points.");
  }
  const telling = tracks.filter((track) => hasMoved(track) || track.suspected);
  const network = foremost(telling.filter(isWhole));
  const few = network.length <= FEW;
  const first = network.filter((track) => few || urgency(track) > 0);
  return [
    first.length ? el("ul", { class: "summary" }, ...first.map(summaryLine)) : null,
    ...others(network.filter((track) => !first.includes(track)), first.length > 0),
    ...layered(telling.filter((track) => !isWhole(track))),
    waiting(tracks.filter((track) => !telling.includes(track))),
  ].filter(Boolean);
}

/** Machines that advise nothing, folded away behind their number. */
function others(tracks, more) {
  if (tracks.length === 0) return [];
  const told = `${whole(tracks.length)} ${more ? "more " : ""}with nothing to do`;
  return [el("details", { class: "summary-layers" }, el("summary", {}, told), el("ul", { class: "summary" }, ...tracks.map(summaryLine)))];
}

/** Layers are told one by one where they are few, else folded away behind how many are where. */
function layered(tracks) {
  if (tracks.length === 0) return [];
  const list = el("ul", { class: "summary" }, ...tracks.map(summaryLine));
  if (tracks.length < 3) return [list];
  const counts = new Map();
  for (const { spans } of tracks) counts.set(spans.at(-1)?.phase, (counts.get(spans.at(-1)?.phase) ?? 0) + 1);
  const told = [...counts].map(([phase, n]) => `${whole(n)} ${words(phase ?? "unknown")}`).join(", ");
  return [el("details", { class: "summary-layers" }, el("summary", {}, el("strong", {}, "Layers: "), told), list)];
}

/** Machines that have seen no transition, in one quiet line. */
function waiting(tracks) {
  if (tracks.length === 0) return null;
  const names = new Map();
  for (const { machine, subject } of tracks) names.set(machine, (names.get(machine) ?? 0) + Number("layer" in subject));
  const listed = [...names].map(([machine, layers]) => (layers ? `${words(machine)} (${whole(layers)})` : words(machine)));
  const shown = listed.slice(0, MOST_LINES).join(", ");
  const more = listed.length > MOST_LINES ? ` and ${listed.length - MOST_LINES} more` : "";
  return el("p", { class: "summary-waiting", title: listed.join(", ") }, `Still in their first phase: ${shown}${more}.`);
}

/** Tracks of the whole network first; of these, those that ask for something to be done, the graver the earlier. */
export function foremost(tracks) {
  return [...tracks].sort((a, b) => Number(isWhole(b)) - Number(isWhole(a)) || urgency(b) - urgency(a));
}

/** 0 where nothing is advised, 1 where advice waits to be confirmed, more where it holds. */
export function urgency(track) {
  const last = entered(track);
  if (!last?.newest.advice) return 0;
  return last.states.some(({ act }) => act) ? 2 + SEVERITIES.indexOf(last.newest.severity) : 1;
}

/** The claim by which a track came into the phase it is in. */
function entered({ spans, episodes }) {
  return episodes.findLast((each) => each.stands && each.detected.to_phase === spans.at(-1)?.phase);
}

function summaryLine(track) {
  const now = track.spans.at(-1);
  const phase = now?.phase ?? track.suspected?.newest.from_phase ?? "unknown";
  const last = entered(track);
  const of = labelled(track.subject);
  const when = last
    ? [`since step ${whole(last.detected.happened_step)}, ${last.state} at ${whole(last.newest.known_step)}`, sure(last.newest)]
    : ["no transition stands so far"];
  const { suspected } = track;
  return el(
    "li",
    { class: "summary-line" },
    el(
      "div",
      { class: "summary-head" },
      swatch("dot", toneOf(track, phase)),
      el(
        "span",
        {},
        el("strong", { title: now?.meaning || null }, sentence(phaseName(track.machine, phase))),
        of ? el("span", { class: "quiet" }, ` ${of}`) : null,
      ),
    ),
    el("div", { class: "summary-when" }, ...when),
    suspected
      ? el("div", { class: "summary-suspected" }, `${sentence(words(suspected.newest.to_phase))} is suspected since step ${whole(suspected.newest.known_step)}`)
      : null,
    (last && adviceOf(last, "summary-text")) || (now?.meaning && el("div", { class: "summary-text quiet" }, now.meaning)) || null,
  );
}

/** How sure a transition is, in brackets; of a rule whose errors nothing bounds, that it is one. */
function sure(transition) {
  return isBounded(transition) ? [" ", el("span", { class: "whole" }, `(confidence ${confidence(transition.confidence)})`)] : null;
}

/** Whether the probability of a false claim was bounded: a rule of thumb has no alpha. */
export function isBounded({ evidence }) {
  return evidence.alpha < 1;
}

/** What to do about a claim, and whether now: a machine may ask to wait until it is confirmed. */
export function adviceOf(episode, name) {
  const { newest, states } = episode;
  if (!newest.advice || ["suspected", "superseded"].includes(episode.state)) return null;
  const now = states.some(({ act }) => act);
  return el("p", { class: `${name}${now ? "" : " is-early"}` }, now ? null : el("strong", {}, "Once confirmed: "), newest.advice);
}
