// Record: how often claims were right, judged in hindsight over all finished runs.

import { el } from "./dom.js";
import { percent, whole, words } from "./format.js";
import { ask, tolerate } from "./link.js";

const SECONDS_BETWEEN = 2;
const HEADS = [
  ["turn", "The machine, and the turn it claims."],
  ["false alarms", "Claims of what did not happen, or made before it did; the 95 % interval of their rate."],
  ["promised", "Alpha: how many there may be at most."],
  ["hits", "Claims of what did happen."],
  ["misses", "What happened and was never claimed."],
  ["delay", "Median, in steps, from when it happened to when it was claimed."],
  ["labelled", "Series in which hindsight knows whether it was taken."],
];

/** A fold that asks when it is opened, and again for as long as the collector still judges. */
export function recordPanel() {
  const body = el("div", {});
  const details = el("details", { class: "panel record" }, el("summary", {}, el("h2", {}, "How often claims were right")), body);
  const tell = async () => {
    if (!details.open) return;
    const record = await ask("/api/record");
    body.replaceChildren(...content(record));
    if (record.busy) setTimeout(() => tell().catch(tolerate), SECONDS_BETWEEN * 1000);
  };
  details.addEventListener("toggle", () => tell().catch(tolerate));
  return details;
}

function content({ busy, runs, turns }) {
  if (runs === 0) {
    return [el("p", { class: "quiet" }, busy ? "The finished runs are being judged in hindsight …" : "No run has finished yet.")];
  }
  const [all, ...rest] = turns;
  return [
    el("p", { class: all.kept ? null : "is-bad" }, verdict(all, runs)),
    el(
      "div",
      { class: "table-box" },
      el(
        "table",
        { class: "table" },
        el("thead", {}, el("tr", {}, ...HEADS.map(([name, title]) => el("th", { scope: "col", title }, name)))),
        el("tbody", {}, ...rest.map(line)),
      ),
    ),
  ];
}

function verdict({ labelled, false_alarms: wrong, interval, alpha, kept }, runs) {
  const of = `Of ${whole(runs)} finished run${runs === 1 ? "" : "s"} hindsight can judge ${whole(labelled)}`;
  if (labelled === 0) return `${of}.`;
  const between = interval.map((rate) => percent(rate)).join(" to ");
  return `${of}; ${whole(wrong)} had a false alarm (${between} with 95 % confidence). Promised are at most ${percent(alpha)}: ${kept ? "kept, as far as can be told" : "not kept"}.`;
}

function line({ machine, from_phase: from, to_phase: to, alpha, labelled, false_alarms: wrong, interval, kept, hits, misses, delay }) {
  const rate = labelled ? el("small", {}, `${percent(interval[0])} to ${percent(interval[1])}`) : null;
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, words(machine), el("small", {}, `${words(from)} → ${words(to)}`)),
    el("td", { class: kept ? null : "is-bad" }, whole(wrong), rate),
    el("td", {}, percent(alpha)),
    el("td", {}, whole(hits)),
    el("td", {}, whole(misses)),
    el("td", {}, delay === null ? "—" : whole(delay)),
    el("td", {}, whole(labelled)),
  );
}
