// Choice: the runs that are seen beside each other. Each keeps its place, and with it its colour, when another is let go.

import { lookedAt, packed, queryText, unpacked } from "./address.js";
import { labelled } from "./format.js";

/** As many as have colours that everyone can tell apart. */
export const MOST_RUNS = 8;

/** The ids in the address, each at its place; "" where there is none. */
export function chosen() {
  return named().slice(0, MOST_RUNS);
}

/** How many runs the address names beyond those that can be shown. */
export function chosenBeyond() {
  return named().slice(MOST_RUNS).filter(Boolean).length;
}

/** With one more, at the first free place, or with one less. */
export function toggled(places, id) {
  const at = places.indexOf(id);
  if (at >= 0) return places.with(at, "");
  const free = places.indexOf("");
  return free >= 0 ? places.with(free, id) : [...places, id].slice(0, MOST_RUNS);
}

/** The places as the address has them. */
export function chosenText(places) {
  return places.map((id) => packed([id])).join(",").replace(/,+$/, "");
}

/** A page of ours with a choice; what else is looked at, as `query` has it, comes along. */
export function chosenAddress(path, places, query = location.search) {
  const all = new URLSearchParams(query);
  all.delete("find");
  all.set("runs", chosenText(places));
  return `${path}?${queryText(all)}`;
}

/** The custom property with the colour of a place. */
export function toneAt(place) {
  return `--run-${place}`;
}

/**
 * How runs are told apart: `{ name, short }` of each. The name has the labels in which they differ, the short one
 * nothing else where that is enough; their ids, where nothing else differs.
 */
export function namesOf(runs) {
  const differ = [...new Set(runs.flatMap(({ labels }) => Object.keys(labels)))].filter((label) => new Set(runs.map(({ labels }) => labels[label])).size > 1);
  const told = runs.map(({ labels }) => labelled(Object.fromEntries(differ.filter((label) => label in labels).map((label) => [label, labels[label]]))));
  const full = runs.map(({ name }, i) => [name, told[i]].filter(Boolean).join(" · "));
  const names = full.map((name, i) => (full.indexOf(name) === full.lastIndexOf(name) ? name : `${name} · ${runs[i].id.slice(0, 6)}`));
  const apart = new Set(told).size === runs.length && told.every(Boolean);
  return names.map((name, i) => ({ name, short: apart ? told[i] : name }));
}

function named() {
  const ids = lookedAt("runs").map((item) => unpacked(item)[0]);
  return ids.map((id, place) => (ids.indexOf(id) === place ? id : ""));
}
