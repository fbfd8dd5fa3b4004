// Runs: the list of everything the collector has heard of, those that run first, the newest at the top.

import { look, looked, onBack } from "./address.js";
import { MOST_RUNS, chosen, chosenAddress, chosenText, toggled, toneAt } from "./choice.js";
import { el, renew, say } from "./dom.js";
import { ago, labelled, percent, whole } from "./format.js";
import { ask, tolerate } from "./link.js";
import { isWhole, phaseChip, phaseName } from "./phases.js";
import { recordPanel } from "./record.js";

const HEADS = ["Run", "Step", "Phases", "Reports", "Lost", "Overhead", "Last heard"];
const MOST_CHIPS = 5;
const FEW = 8; // so many are found without searching
const SECONDS_BETWEEN = 3;
const QUIET_SECONDS = 15;
const STATES = ["running", "silent", "finished"];

export class RunsPage {
  #rows = new Map();
  #last = 0;
  #skew = 0;

  constructor() {
    this.count = el("span", { class: "quiet" });
    this.body = el("tbody");
    this.table = el(
      "table",
      { class: "table runs", hidden: true },
      el("caption", { class: "unseen" }, "Runs"),
      el("thead", {}, el("tr", {}, ...HEADS.map((head) => el("th", { scope: "col" }, head)))),
      this.body,
    );
    this.welcome = el("section", { class: "welcome", hidden: true });
    this.search = el("input", { type: "search", class: "search", placeholder: "Find by name, label, host or phase", "aria-label": "Find runs", hidden: true });
    this.search.value = looked("find") ?? "";
    this.search.addEventListener("input", () => {
      look({ find: this.search.value }, false);
      this.#sift();
    });
    this.picked = el("div", { class: "picked", hidden: true });
    this.announced = el("span", { class: "unseen", role: "status" });
    this.unfound = el("p", { class: "quiet runs-unfound", hidden: true }, "No run matches.");
    this.record = recordPanel();
    this.record.hidden = true;
    const head = el("div", { class: "page-head" }, el("h1", {}, "Runs"), this.count, this.search);
    this.root = el("div", { class: "page" }, head, this.picked, this.announced, this.table, this.unfound, this.welcome, this.record);
    setInterval(() => this.#pass(), 1000);
    document.title = "Phasewatch";
    onBack(() => {
      this.search.value = looked("find") ?? "";
      this.#sift();
      this.#tellChoice();
    });
  }

  /** Load the list again. */
  async load() {
    this.#last = Date.now();
    const { now, address, total, runs, guarded } = await ask("/api/runs");
    this.#skew = now - Date.now() / 1000;
    this.table.hidden = total === 0;
    this.welcome.hidden = total > 0;
    this.record.hidden = total === 0;
    this.search.hidden = total <= FEW && !this.search.value;
    say(this.count, total > runs.length ? `the ${whole(runs.length)} heard last of ${whole(total)}` : total ? whole(total) : "");
    if (total === 0) return this.#invite(address, guarded);
    // Not the latest heard first: runs that report at once would change places all the time.
    runs.sort((a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state) || b.started_at - a.started_at);
    this.#rows = new Map(runs.map((run) => [run.id, this.#tell(this.#rows.get(run.id) ?? newRow(run.id, () => this.#choose(run.id)), run)]));
    const order = [...this.#rows.values()].map((row) => row.element);
    if (order.some((row, i) => this.body.children[i] !== row) || this.body.children.length !== order.length) {
      this.body.replaceChildren(...order);
    }
    this.#sift();
    this.#tellChoice();
  }

  #choose(id) {
    look({ runs: chosenText(toggled(chosen(), id)) }, false);
    this.#tellChoice();
  }

  /** Which runs are checked, and what can be done with them. */
  #tellChoice() {
    const places = chosen();
    const ids = places.filter((id) => this.#rows.has(id));
    const full = places.filter(Boolean).length >= MOST_RUNS;
    for (const [id, { pick, box }] of this.#rows) {
      const place = places.indexOf(id);
      box.checked = place >= 0;
      box.disabled = full && place < 0;
      pick.title = box.disabled ? `${MOST_RUNS} runs are the most that are told apart on a chart` : "Choose for comparing";
      if (place >= 0) box.style.setProperty("--colour", `var(${toneAt(place)})`);
    }
    this.picked.hidden = this.#rows.size < 2;
    this.table.classList.toggle("is-single", this.#rows.size < 2);
    renew(this.picked, [places, ids.length], () => {
      if (ids.length === 0) return [el("span", { class: "quiet" }, "Check two runs or more to see them on the same charts.")];
      const clear = el("button", { type: "button", class: "button", onclick: () => this.#clear() }, "Clear");
      const told = ids.length === 1 ? "1 run chosen; check another to compare." : `${whole(ids.length)} runs chosen${full ? ", which is the most" : ""}.`;
      say(this.announced, told);
      const compare = el("a", { class: "button is-main", href: chosenAddress("/compare", places) }, `Compare ${whole(ids.length)} runs`);
      return [el("span", {}, told), ids.length > 1 ? compare : null, clear].filter(Boolean);
    });
  }

  #clear() {
    look({ runs: null }, false);
    this.#tellChoice();
    this.body.querySelector("input")?.focus();
  }

  /** Only the rows in which every word looked for occurs. */
  #sift() {
    const wanted = this.search.value.toLowerCase().split(/\s+/);
    for (const { element, text } of this.#rows.values()) element.hidden = !wanted.every((word) => text.includes(word));
    say(this.unfound, `None of ${this.count.textContent} matches.`);
    this.unfound.hidden = this.#rows.size === 0 || [...this.#rows.values()].some(({ element }) => !element.hidden);
  }

  /** Steps move at once; the rest of the row follows within seconds. */
  tick(ticks) {
    for (const { run, step } of ticks) {
      const row = this.#rows.get(run);
      if (row) say(row.cells.step, whole(step));
      if (row) row.heard = Date.now() / 1000 + this.#skew;
    }
    if (Date.now() - this.#last > SECONDS_BETWEEN * 1000) this.load().catch(tolerate);
  }

  transition() {
    this.load().catch(tolerate);
  }

  #tell(row, run) {
    const { link, cells, box } = row;
    const again = run.judging_again ? `judging again, ${percent(run.judging_again.judged / Math.max(run.judging_again.reports, 1))}` : "";
    const details = [run.state, again, labelled(run.labels), run.host, run.git_revision.slice(0, 8)];
    renew(link, [run.name, run.state], () => [
      el("span", { class: `state state-${run.state}`, role: "img", "aria-label": run.state }),
      el("span", { class: "run-name", title: run.name }, run.name),
    ]);
    box.setAttribute("aria-label", `Choose ${run.name} for comparing`);
    say(row.details, details.filter(Boolean).join(" · "));
    say(cells.step, whole(run.step));
    say(cells.reports, whole(run.reports));
    say(cells.lost, whole(run.lost));
    cells.lost.classList.toggle("is-bad", run.lost > 0);
    say(cells.overhead, percent(run.overhead_ratio));
    renew(cells.phases, run.phases, () => chips(run.phases));
    row.text = [run.name, run.id, ...details, ...run.phases.map(({ machine, phase }) => phaseName(machine, phase))].join(" ").toLowerCase();
    row.heard = run.last_heard;
    this.#tellTime(row);
    return row;
  }

  /** A second has passed. A run that fell silent sends no tick, so the list is asked for. */
  #pass() {
    for (const row of this.#rows.values()) this.#tellTime(row);
    if (Date.now() - this.#last > QUIET_SECONDS * 1000 && !document.hidden) this.load().catch(tolerate);
  }

  #tellTime(row) {
    say(row.cells.heard, ago(Math.max(Date.now() / 1000 + this.#skew - row.heard, 0)));
  }

  /** The empty state: how to make it otherwise. */
  #invite(bound, guarded) {
    const address = bound.replace(/\/\/(0\.0\.0\.0|\*|\[::\])(?=:)/, `//${location.hostname}`); // bound everywhere: this name works
    const given = ["loss_fn=loss_fn", "probe_batch=(x[:256], y[:256])", 'run="my run"', `collector="${address}"`, ...(guarded ? ['key="NAME.key"'] : [])];
    const code = `from probe_agent import attach\n\nmonitor = attach(model, optimizer, ${given.slice(0, 2).join(", ")},\n                 ${given.slice(2).join(", ")})`;
    const copy = el("button", { type: "button", class: "button" }, "Copy");
    copy.addEventListener("click", async () => {
      await navigator.clipboard?.writeText(code).then(() => say(copy, "Copied"), () => {});
    });
    this.welcome.replaceChildren(
      el("h2", {}, "No run has reported yet"),
      el("p", {}, "Two lines before the training loop attach the agent; the loop stays as it is."),
      el("div", { class: "code" }, el("pre", { tabindex: 0 }, el("code", {}, code)), navigator.clipboard ? copy : null),
      el("p", { class: "quiet" }, "The probe batch is a few hundred examples on which everything is measured; it stays the same for the whole run."),
      el("p", { class: "quiet" }, "This collector listens for agents at ", el("code", {}, address), ". The run appears here by itself."),
      ...(guarded ? [el("p", { class: "quiet" }, "They need a key. Where the collector runs, ", el("code", {}, "probe-collector keys create NAME"), " makes one.")] : []),
    );
  }
}

function newRow(id, choose) {
  const names = { step: "step", phases: "phases", reports: "reports", lost: "lost", overhead: "overhead", heard: "last heard" };
  const cells = Object.fromEntries(Object.entries(names).map(([key, name]) => [key, el("td", { "data-name": name })]));
  const link = el("a", { class: "run-link", href: `/runs/${encodeURIComponent(id)}` });
  const details = el("span", { class: "run-details" });
  const box = el("input", { type: "checkbox", class: "pick-box", onchange: choose });
  const pick = el("label", { class: "pick" }, box);
  const element = el("tr", {}, el("th", { scope: "row" }, pick, link, details), ...Object.values(cells));
  return { element, pick, box, link, details, cells, heard: 0, text: "" };
}

/** The phases of the whole network that were entered since the run began, the newest first; without any, those it began in. */
function chips(phases) {
  const whole = phases.filter(isWhole);
  const entered = whole.filter(({ hue }) => hue !== 0).sort((a, b) => b.since_step - a.since_step);
  const told = entered.length ? entered : whole;
  const more = told.length - MOST_CHIPS;
  return el(
    "span",
    { class: "chips" },
    ...told.slice(0, MOST_CHIPS).map((phase) => phaseChip(phaseName(phase.machine, phase.phase), phase.hue, phase.meaning)),
    more > 0 ? el("span", { class: "quiet" }, `+${more}`) : null,
    told.length === 0 ? el("span", { class: "quiet" }, "—") : null,
  );
}
