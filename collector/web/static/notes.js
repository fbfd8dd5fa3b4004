// Notes: what a card says of its series in small print: how they were measured, and what the chart does not show of them.

import { labelled, whole, words } from "./format.js";
import { unseen } from "./series.js";

/** Settings that tell series apart for detection; to a person they say nothing. */
const IDENTITIES = new Set(["probe", "probe_set", "seed", "configuration"]);

/** How all of them were measured. */
export function settingsOf(list) {
  const shared = Object.entries(list[0]?.settings ?? {}).filter(
    ([name, value]) => !IDENTITIES.has(name) && list.every((series) => series.settings[name] === value),
  );
  return shared.map((setting) => labelled(Object.fromEntries([setting]))).join(" · ");
}

/** In what their measuring differs, which may be all that makes their curves differ. */
export function differencesOf(list) {
  const names = new Set(list.flatMap((series) => Object.keys(series.settings)));
  const differ = [...names].filter((name) => new Set(list.map((series) => series.settings[name])).size > 1);
  const told = differ
    .filter((name) => !IDENTITIES.has(name))
    .map((name) => `${words(name)} ${[...new Set(list.map((series) => series.settings[name] ?? "none"))].join(", ")}`);
  if (differ.includes("probe_set")) told.push("the sets of samples differ"); // the probe set, or a further one
  return told.length > 0 ? [`Measured differently: ${told.join("; ")}`] : [];
}

/** What the chart does not show, counted. */
export function unseenOf(list, log) {
  const counts = unseen(list, log);
  const points = (n) => `${whole(n)} ${n === 1 ? "point" : "points"}`;
  return [
    counts.notOk && `▲ ${points(counts.notOk)} not ok`,
    counts.withoutValue && `${points(counts.withoutValue)} without a finite value`,
    counts.below && `${points(counts.below)} at or below zero not shown on a log axis`,
    counts.folded && `${points(counts.folded)} between those drawn left out, extremes kept`,
    counts.abandoned && `${points(counts.abandoned)} from before training went back to an earlier step not drawn`,
  ].filter(Boolean);
}
