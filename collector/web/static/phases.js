// Phases: where a run is, in words; and the tracks that the charts paint.

import { el, swatch } from "./dom.js";
import { confidence, labelled, sentence, whole, words } from "./format.js";
import { phaseColour } from "./palette.js";

/** One machine on one subject: its phases in order and the transitions between them. */
export function tracksOf(spans, transitions) {
  const tracks = new Map();
  const track = (machine, subject) => {
    const key = trackKey(machine, subject);
    if (!tracks.has(key)) tracks.set(key, { key, machine, subject, spans: [], transitions: [], places: new Map() });
    return tracks.get(key);
  };
  for (const span of spans) {
    const { spans: known, places } = track(span.machine, span.subject);
    known.push(span);
    places.set(span.phase, span.place);
  }
  for (const { transition } of transitions) track(transition.machine, transition.subject).transitions.push(transition);
  for (const found of tracks.values()) found.transitions.sort((a, b) => a.ordinal - b.ordinal);
  const known = (each) => each.transitions.at(-1)?.known_step ?? -1;
  return [...tracks.values()].sort((a, b) => known(b) - known(a)); // the latest news first
}

/** The colour of a phase of a track. */
export function inkOf(track, phase) {
  return phaseColour(track.machine, track.places.get(phase) ?? 0);
}

/** What a track is known by. */
export function trackKey(machine, subject) {
  return JSON.stringify([machine, Object.entries(subject).sort()]);
}

/** "critical period" or, of a layer, "critical period, layer fc1". */
export function trackName({ machine, subject }) {
  return [words(machine), labelled(subject)].filter(Boolean).join(", ");
}

/** A phase as a chip with its colour, and with its machine's name where that is not said already. */
export function phaseChip({ machine, phase, place }, named = true) {
  const name = named ? [el("span", { class: "chip-machine" }, words(machine)), words(phase)] : [words(phase)];
  return el("span", { class: "chip" }, swatch("dot", phaseColour(machine, place)), ...name);
}

/** Where every machine of the run stands, one line each. */
export function phaseSummary(tracks) {
  if (tracks.length === 0) {
    return el("p", { class: "quiet" }, "No phase has been told apart yet. Machines speak once their curve has enough points.");
  }
  return el("ul", { class: "summary" }, ...tracks.map(summaryLine));
}

function summaryLine(track) {
  const last = track.transitions.at(-1);
  const phase = last ? last.to_phase : track.spans.at(-1)?.phase;
  const head = el(
    "div",
    { class: "summary-head" },
    swatch("dot", inkOf(track, phase)),
    el("span", { class: "summary-machine" }, sentence(trackName(track))),
    el("strong", {}, words(phase ?? "unknown")),
  );
  const when = last
    ? `since step ${whole(last.happened_step)} (known at ${whole(last.known_step)}, confidence ${confidence(last.confidence)})`
    : "since the start; no transition so far";
  return el(
    "li",
    { class: "summary-line" },
    head,
    el("div", { class: "summary-when" }, when),
    last?.advice ? el("div", { class: "summary-advice" }, last.advice) : null,
  );
}
