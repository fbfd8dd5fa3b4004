// Runs: the list of everything the collector has heard of, the latest first.

import { el, say } from "./dom.js";
import { ago, labelled, percent, whole } from "./format.js";
import { ask, tolerate } from "./link.js";
import { phaseChip, phaseName } from "./phases.js";

const HEADS = ["Run", "Step", "Phases", "Reports", "Lost", "Overhead", "Last heard"];
const MOST_CHIPS = 3;
const SECONDS_BETWEEN = 3;

export class RunsPage {
  #rows = new Map();
  #last = 0;
  #skew = 0;
  #timers = [];

  constructor() {
    this.count = el("span", { class: "quiet" });
    this.body = el("tbody");
    this.table = el(
      "table",
      { class: "table runs", hidden: true },
      el("caption", { class: "unseen" }, "Runs, the latest heard first"),
      el("thead", {}, el("tr", {}, ...HEADS.map((head) => el("th", { scope: "col" }, head)))),
      this.body,
    );
    this.welcome = el("section", { class: "welcome", hidden: true });
    this.root = el("div", { class: "page" }, el("div", { class: "page-head" }, el("h1", {}, "Runs"), this.count), this.table, this.welcome);
    this.#timers.push(setInterval(() => this.#tellTimes(), 1000));
    document.title = "Phasewatch";
  }

  /** Load the list again. */
  async load() {
    this.#last = Date.now();
    const { now, address, total, runs } = await ask("/api/runs");
    this.#skew = now - Date.now() / 1000;
    this.table.hidden = total === 0;
    this.welcome.hidden = total > 0;
    say(this.count, total > runs.length ? `the ${whole(runs.length)} heard last of ${whole(total)}` : total ? whole(total) : "");
    if (total === 0) return this.#invite(address);
    const kept = new Map(runs.map((run) => [run.id, this.#row(run)]));
    this.#rows = kept;
    this.body.replaceChildren(...[...kept.values()].map((row) => row.element));
  }

  /** Steps move at once; the rest of the row follows within seconds. */
  tick(ticks) {
    for (const { run, step } of ticks) {
      const row = this.#rows.get(run);
      if (row) say(row.step, whole(step));
      if (row) row.heard = Date.now() / 1000 + this.#skew;
    }
    if (Date.now() - this.#last > SECONDS_BETWEEN * 1000) this.load().catch(tolerate);
  }

  transition() {
    this.load().catch(tolerate);
  }

  #row(run) {
    const cell = (name, ...children) => el("td", { "data-name": name }, ...children);
    const step = cell("step", whole(run.step));
    const heard = cell("last heard");
    const details = [labelled(run.labels), run.host, run.git_revision.slice(0, 8)].filter(Boolean).join(" · ");
    const phases = run.phases.filter((phase) => Object.keys(phase.subject).length === 0 || run.phases.length <= MOST_CHIPS);
    const row = el(
      "tr",
      {},
      el(
        "th",
        { scope: "row" },
        el(
          "a",
          { class: "run-link", href: `/runs/${encodeURIComponent(run.id)}` },
          el("span", { class: `state state-${run.state}`, title: run.state, role: "img", "aria-label": run.state }),
          run.name,
        ),
        el("span", { class: "run-details" }, `${run.state} · ${details}`),
      ),
      step,
      cell(
        "phases",
        el(
          "span",
          { class: "chips" },
          ...phases.slice(0, MOST_CHIPS).map((phase) => phaseChip(phaseName(phase.machine, phase.phase), phase.hue, phase.meaning)),
          phases.length > MOST_CHIPS ? el("span", { class: "quiet" }, `+${phases.length - MOST_CHIPS}`) : null,
          phases.length === 0 ? el("span", { class: "quiet" }, "—") : null,
        ),
      ),
      cell("reports", whole(run.reports)),
      el("td", { "data-name": "lost", class: run.lost ? "is-bad" : "" }, whole(run.lost)),
      cell("overhead", percent(run.overhead_ratio)),
      heard,
    );
    const kept = { element: row, step, heardCell: heard, heard: run.last_heard };
    this.#tellTime(kept);
    return kept;
  }

  #tellTimes() {
    for (const row of this.#rows.values()) this.#tellTime(row);
  }

  #tellTime(row) {
    say(row.heardCell, ago(Math.max(Date.now() / 1000 + this.#skew - row.heard, 0)));
  }

  /** The empty state: how to make it otherwise. */
  #invite(bound) {
    const address = bound.replace(/\/\/(0\.0\.0\.0|\*|\[::\])(?=:)/, `//${location.hostname}`); // bound everywhere: this name works
    const code = `from probe_agent import attach\nmonitor = attach(model, optimizer, loss_fn=loss_fn, probe_batch=(x, y), run="my first run", collector="${address}")`;
    const copy = el("button", { type: "button", class: "button" }, "Copy");
    copy.addEventListener("click", async () => {
      await navigator.clipboard?.writeText(code).then(() => say(copy, "Copied"), () => {});
    });
    this.welcome.replaceChildren(
      el("h2", {}, "No run has reported yet"),
      el("p", {}, "Two lines attach the agent to a training script. The training loop stays as it is."),
      el("div", { class: "code" }, el("pre", { tabindex: 0 }, el("code", {}, code)), navigator.clipboard ? copy : null),
      el("p", { class: "quiet" }, "This collector listens for agents at ", el("code", {}, address), ". The run appears here by itself."),
    );
  }
}
