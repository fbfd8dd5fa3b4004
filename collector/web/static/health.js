// Health: what watching cost, what was lost, and which probes struggled; all of it visible, red only if not zero.

import { el } from "./dom.js";
import { ago, bytes, duration, percent, whole, words } from "./format.js";

const NONE = "—";
const MANY_RANKS = 16;
const FEW_RANKS = 8;
const OVERHEAD = "The probes' share of the run's time, and the seconds they took. The first seconds may be free of the budget: a short run then shows a large share.";

/** The figures that are always in sight. Losses are null where the run is not in the collector's memory. */
export function counters(run, ranks) {
  const losses = run.losses ?? { reports_dropped: null, snapshots_skipped: null, scalars_dropped: null };
  const unknown = "Known while the collector has the run in memory.";
  const count = (name, value, help, bad = false) =>
    el(
      "div",
      { class: `figure${bad && value ? " is-bad" : ""}`, title: value === null ? unknown : help },
      el("dt", {}, name),
      el("dd", {}, value === null ? NONE : whole(value)),
    );
  const spent = ranks.reduce((sum, rank) => sum + rank.probe_seconds, 0);
  return el(
    "dl",
    { class: "figures-strip" },
    count("step", run.step, "The furthest optimizer step any rank reported."),
    el(
      "div",
      { class: "figure", title: run.overhead_ratio === null ? unknown : OVERHEAD },
      el("dt", {}, "overhead"),
      el("dd", {}, percent(run.overhead_ratio), spent > 0 ? el("small", {}, duration(spent)) : null),
    ),
    count("reports", run.reports, "Reports committed to the store."),
    count("lost", run.lost, "Reports that were numbered and are not in the record: given up by the agent, or damaged on the collector's disk.", true),
    count("dropped", losses.reports_dropped, "Reports the agent gave up: its memory was full, or they could not be sent.", true),
    count("skipped", losses.snapshots_skipped, "Snapshots not taken: to stay within the share of time, because the one before was still being measured, or because one failed."),
    count("scalars dropped", losses.scalars_dropped, "Logged scalars the agent could not keep.", true),
  );
}

/** Tables of the ranks and the probes. */
export function healthPanel({ ranks, probes, run, now, unjudged }) {
  if (ranks.length === 0 && probes.length === 0) {
    return el("p", { class: "quiet" }, "The collector no longer has this run in memory; its points and transitions are in the store.");
  }
  const training = ranks.reduce((sum, rank) => sum + rank.training_seconds + rank.probe_seconds, 0);
  return el(
    "div",
    { class: "tables" },
    table(
      "Probes",
      ["probe", "time", "of training", "memory raised", "ok", "not ok", "last problem"],
      probes.map((probe) => [
        words(probe.probe),
        duration(probe.seconds),
        probe.apart ? "beside it" : training > 0 ? percent(probe.seconds / training) : NONE,
        probe.memory_raised ? bytes(probe.memory_raised) : NONE,
        whole(probe.outcomes.ok ?? 0),
        troubles(probe.outcomes),
        probe.last_problem || NONE,
      ]),
    ),
    ...rankTables(ranks, run, now),
    unused(unjudged),
  );
}

/** The ranks; of many in sight are those that lost the most, are furthest behind or were heard longest ago, the others behind a fold. */
function rankTables(ranks, run, now) {
  const heads = ["rank", "step", "reports", "lost", "overhead", "last heard"];
  const row = (rank) => [
    String(rank.rank),
    whole(rank.step),
    whole(rank.reports),
    whole(rank.lost),
    percent(rank.overhead_ratio),
    rank.finished ? "finished" : ago(now - rank.last_heard),
  ];
  const caption = run.world_size > 1 ? `Ranks (${whole(ranks.length)} of ${whole(run.world_size)} heard)` : "Rank";
  if (ranks.length <= MANY_RANKS) return [table(caption, heads, ranks.map(row))];
  const heard = (rank) => (rank.finished ? now : rank.last_heard);
  const worst = [...ranks].sort((a, b) => b.lost - a.lost || a.step - b.step || heard(a) - heard(b) || a.rank - b.rank).slice(0, FEW_RANKS);
  const others = ranks.filter((rank) => !worst.includes(rank));
  return [
    table(`${caption}; first those that lost the most, are furthest behind or were heard longest ago`, heads, worst.map(row)),
    el("details", { class: "other-ranks" }, el("summary", {}, `${whole(others.length)} more ranks`), table("Other ranks", heads, others.map(row))),
  ];
}

const WHY_UNJUDGED = {
  not_ok: "came out not ok",
  skipped: "were not finite, or not positive on a logarithmic axis",
  outdated: "were measured with other settings than those after them",
  behind: "came at a step the run had passed already",
  refused: "were of a subject beyond the most that are followed",
};

/** Measurements no phase machine saw, in a sentence; nothing where there are none. */
function unused(unjudged) {
  const found = Object.entries(unjudged).filter(([, n]) => n > 0);
  if (found.length === 0) return "";
  const parts = found.map(([why, n]) => `${whole(n)} ${WHY_UNJUDGED[why] ?? why}`);
  return el("p", { class: "quiet" }, `Not used to judge phases: ${parts.join("; ")}.`);
}

function troubles(outcomes) {
  const found = Object.entries(outcomes).filter(([name, n]) => name !== "ok" && n > 0);
  return found.length ? found.map(([name, n]) => `${whole(n)} ${words(name)}`).join(", ") : NONE;
}

function table(caption, heads, rows) {
  const cell = (text, i) => el("td", { "data-name": heads[i + 1], class: text === NONE ? "is-none" : null }, text);
  return el(
    "div",
    { class: "table-box" },
    el(
      "table",
      { class: "table stacked" },
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, ...rows.map(([first, ...others]) => el("tr", {}, el("th", { scope: "row" }, first), ...others.map(cell)))),
    ),
  );
}
