// Noise: how far single probes of each judged series stray, from what, and whether a trend can be told from it.

import { el } from "./dom.js";
import { labelled, number, percent, sentence, whole, words } from "./format.js";
import { VERDICTS } from "./evidence.js";

const HEADS = [
  ["series", "The quantity, and the machines that judge it."],
  ["verdict", "What the noise means for the claims made in it."],
  ["noise", "Standard deviation of one probe, relative to the level, as the tests believe it."],
  ["estimator", "The part of it that the estimator itself reports, from paired differences on fixed inputs."],
  ["training", "The part of it that training adds."],
  ["autocorrelation", "Of the AR(1) process whose means would scatter alike: 0 where probes stray independently."],
  ["tails", "The 90 % quantile of what is left of the curve over its median; 1 for a Gaussian."],
  ["outliers", "The share of probes that were replaced before testing."],
  ["probes", "How many the machines have seen."],
];
const ORDER = ["unassessable", "correlated", "unknown", "white"];

/** A table of the judged series; the layers' behind a fold. */
export function noiseTable(judged) {
  if (judged.length === 0) return el("p", { class: "quiet" }, "No phase machine judges a series of this run, or the collector no longer has it in memory.");
  const rows = rowsOf(judged);
  const layers = rows.filter((row) => "layer" in row.subject);
  return [
    table(rows.filter((row) => !layers.includes(row))),
    layers.length ? el("details", { class: "noise-layers" }, el("summary", {}, `Layers: ${counted(layers)}`), table(layers)) : null,
  ].filter(Boolean);
}

/** One row a series: machines that see the same noise in it share one. */
function rowsOf(judged) {
  const rows = new Map();
  for (const { machine, subject, quantity, card } of judged) {
    const key = JSON.stringify([quantity, Object.entries(subject).sort(), card]);
    if (!rows.has(key)) rows.set(key, { quantity, subject, card, machines: [] });
    rows.get(key).machines.push(words(machine));
  }
  return [...rows.values()].sort((a, b) => ORDER.indexOf(a.card.verdict) - ORDER.indexOf(b.card.verdict));
}

function table(rows) {
  if (rows.length === 0) return "";
  return el(
    "div",
    { class: "table-box" },
    el(
      "table",
      { class: "table noise stacked" },
      el("thead", {}, el("tr", {}, ...HEADS.map(([name, title]) => el("th", { scope: "col", title }, name)))),
      el("tbody", {}, ...rows.map(line)),
    ),
  );
}

function line({ quantity, subject, card, machines }) {
  const cells = {
    noise: percent(card.believed),
    estimator: percent(card.estimator),
    training: percent(card.process),
    autocorrelation: number(card.autocorrelation, 2),
    tails: number(card.tails, 2),
    outliers: percent(card.outliers),
    probes: whole(card.probes),
  };
  const name = [words(quantity), labelled(subject)].filter(Boolean).join(", ");
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, name, el("small", {}, machines.join(", "))),
    verdict(card.verdict),
    ...Object.entries(cells).map(([head, text]) => el("td", { "data-name": head }, text)),
  );
}

/** The verdict, with what it means where it is more than that all is well. */
function verdict(name) {
  const meaning = VERDICTS[name];
  const said = [el("b", {}, sentence(name)), name === "white" ? null : el("small", {}, meaning)];
  return el("td", { class: `verdict verdict-${name}`, title: meaning }, ...said);
}

function counted(rows) {
  const found = ORDER.map((verdict) => [verdict, rows.filter(({ card }) => card.verdict === verdict).length]);
  return found.filter(([, n]) => n).map(([verdict, n]) => `${whole(n)} ${verdict}`).join(", ");
}
