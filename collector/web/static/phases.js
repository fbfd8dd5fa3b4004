// Phases: where a run is, in words; and the tracks that the charts paint.

import { el, swatch } from "./dom.js";
import { confidence, labelled, sentence, whole, words } from "./format.js";
import { phaseColour } from "./palette.js";

/** One machine on one subject: its phases in order and the transitions between them. */
export function tracksOf(spans, transitions) {
  const tracks = new Map();
  const track = (machine, subject) => {
    const key = trackKey(machine, subject);
    if (!tracks.has(key)) tracks.set(key, { key, machine, subject, spans: [], transitions: [], hues: new Map() });
    return tracks.get(key);
  };
  for (const span of spans) {
    const { spans: known, hues } = track(span.machine, span.subject);
    known.push(span);
    hues.set(span.phase, span.hue);
  }
  for (const { transition } of transitions) track(transition.machine, transition.subject).transitions.push(transition);
  for (const found of tracks.values()) found.transitions.sort((a, b) => a.ordinal - b.ordinal);
  const known = (each) => each.transitions.at(-1)?.known_step ?? -1;
  return [...tracks.values()].sort((a, b) => known(b) - known(a)); // the latest news first
}

/** The colour of a phase of a track. */
export function inkOf(track, phase) {
  return phaseColour(track.hues.get(phase) ?? 0);
}

/** What a track is known by. */
export function trackKey(machine, subject) {
  return JSON.stringify([machine, Object.entries(subject).sort()]);
}

/** "critical period" or, of a layer, "critical period, layer fc1". */
export function trackName({ machine, subject }) {
  return [words(machine), labelled(subject)].filter(Boolean).join(", ");
}

/** "critical period: early", but only "after critical period" where the phase already says whose it is. */
export function phaseName(machine, phase) {
  return phase.includes(machine) ? words(phase) : `${words(machine)}: ${words(phase)}`;
}

/** A phase as a chip with its colour. */
export function phaseChip(text, hue, meaning = "") {
  return el("span", { class: "chip", title: meaning || null }, swatch("dot", phaseColour(hue)), text);
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
  const now = track.spans.at(-1);
  const phase = last ? last.to_phase : (now?.phase ?? "unknown");
  const of = labelled(track.subject);
  const when = last
    ? `since step ${whole(last.happened_step)} (known at ${whole(last.known_step)}, confidence ${confidence(last.confidence)})`
    : "since the start; no transition so far";
  return el(
    "li",
    { class: "summary-line" },
    el(
      "div",
      { class: "summary-head" },
      swatch("dot", inkOf(track, phase)),
      el("strong", {}, sentence(phaseName(track.machine, phase))),
      of ? el("span", { class: "quiet" }, of) : null,
    ),
    el("div", { class: "summary-when" }, when),
    last?.advice ? el("div", { class: "summary-text" }, last.advice) : null,
    now?.meaning ? el("div", { class: "summary-text quiet" }, now.meaning) : null,
  );
}
