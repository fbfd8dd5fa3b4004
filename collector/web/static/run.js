// Run: everything about one run on one page.

import { look, looked, onBack } from "./address.js";
import { Board } from "./board.js";
import { Card } from "./card.js";
import { chosenAddress } from "./choice.js";
import { Clock } from "./clock.js";
import { el, renew, say } from "./dom.js";
import { ago, confidence, labelled, moment, sentence, whole } from "./format.js";
import { counters, healthPanel } from "./health.js";
import { ask, tolerate } from "./link.js";
import { marksOf } from "./marks.js";
import { noiseTable } from "./noise.js";
import { PhaseMap } from "./phasemap.js";
import { foremost, hasMoved, isBounded, isWhole, judgingAgain, phaseName, phaseSummary, trackItem, tracksOf } from "./phases.js";
import { SeriesSet } from "./series.js";
import { Timeline } from "./timeline.js";
import { BY_TIME, axisOf } from "./xaxis.js";

const SECONDS_BETWEEN = 2;
const QUIET_SECONDS = 15;
const TRAINABLE = "trainable_parameters";
const MOST_POINTS = 20000;
const MOST_TRACKS = 2; // more ribbons and rules hide the curves; the phase map shows them all

export class RunPage {
  #path;
  #detail = null;
  #last = 0;
  #skew = 0;
  #trainable = new SeriesSet();
  #waiting = 0;
  #tracks = [];

  /** `announce` says something aloud; `gone` is told, with a sentence, that the run is no longer there. */
  constructor(id, { announce, gone }) {
    this.id = id;
    this.announce = announce;
    this.gone = gone;
    this.#path = `/api/runs/${encodeURIComponent(id)}`;
    const points = (quantity, series, which) => ask(`${this.#path}/points?${new URLSearchParams({ quantity, series, ...which })}`);
    this.map = new PhaseMap((track) => this.#choose(track));
    this.board = new Board((quantity, view) => new Card(quantity, view, points), this.map, timeOf(new Clock(this.#path)));
    this.timeline = new Timeline((transition, key) => this.board.paint({ highlighted: transition && { transition, key } }));
    this.head = el("header", { class: "run-head" });
    this.heard = el("span", {});
    this.strip = el("div", { class: "strip" });
    this.now = el("h2", { id: "phases-title" }, "Phases now");
    this.summary = el("div", {});
    this.health = el("div", {});
    this.noise = el("div", {});
    this.root = el(
      "div",
      { class: "page run-page" },
      this.head,
      this.strip,
      el(
        "aside",
        { class: "side", "aria-label": "Phases and transitions" },
        el("section", { class: "panel", "aria-labelledby": "phases-title" }, this.now, this.summary),
        this.timeline.root,
      ),
      this.board.root,
      el("section", { class: "panel health", "aria-labelledby": "health-title" }, el("h2", { id: "health-title" }, "Cost and health"), this.health),
      el("section", { class: "panel noise-panel", "aria-labelledby": "noise-title" }, el("h2", { id: "noise-title" }, "Noise"), this.noise),
    );
    setInterval(() => this.#pass(), 1000);
    onBack(() => {
      this.board.restore();
      this.#tellPhases();
    });
  }

  /** Load what is known of the run, then the points of the charts on screen. */
  async load() {
    await this.#loadFacts(this.#detail !== null);
    this.board.tick();
  }

  tick(ticks) {
    const ours = ticks.find((tick) => tick.run === this.id);
    if (!ours) return;
    this.board.tick();
    const wait = SECONDS_BETWEEN * 1000 - (Date.now() - this.#last);
    clearTimeout(this.#waiting);
    this.#waiting = setTimeout(() => this.#again(), Math.max(wait, 0));
  }

  transition({ run, transition }) {
    if (run !== this.id) return;
    const quiet = transition.state === "suspected" || (transition.state === "retracted" && !transition.act); // nothing to act on
    if (!quiet) this.announce(spoken(transition));
    this.#again();
    this.board.tick();
  }

  /** Load what is known of the run again; it may have been taken away to make room. */
  #again() {
    this.#loadFacts(true).catch((error) => (error.status === 404 ? this.gone(error.message) : tolerate(error)));
  }

  async #loadFacts(fresh) {
    this.#last = Date.now();
    const [detail, transitions] = await Promise.all([ask(this.#path), ask(`${this.#path}/transitions`)]);
    this.#skew = detail.now - Date.now() / 1000;
    this.#detail = detail;
    const tracks = (this.#tracks = tracksOf(detail.spans, transitions));
    this.#tellHead(detail.run);
    renew(this.strip, [detail.run, detail.ranks], () => counters(detail.run, detail.ranks));
    say(this.now, detail.run.state === "finished" ? "Phases at the end" : "Phases now");
    const again = detail.run.judging_again;
    renew(this.summary, [tracks, again], () => [judgingAgain(again), phaseSummary(tracks)].flat().filter(Boolean));
    renew(this.health, [detail.ranks, detail.probes, detail.unjudged, Math.floor(detail.now / QUIET_SECONDS)], () => healthPanel(detail));
    this.timeline.set(tracks, fresh);
    renew(this.noise, detail.judged, () => noiseTable(detail.judged));
    this.board.setQuantities(detail.quantities, detail.outcomes);
    this.#tellPhases();
    this.#tellTime();
    if (detail.quantities.some(({ name }) => name === TRAINABLE)) this.board.paint({ marks: await this.#unfrozen() });
  }

  #tellPhases() {
    const drawn = this.#drawn();
    this.map.set(foremost(this.#tracks.filter(hasMoved)), new Set(drawn.map((track) => track.key)));
    this.board.paint({ tracks: drawn });
  }

  /** The tracks that a person chose, or else the first that changed phase. */
  #drawn() {
    const said = looked("phases")?.split(",");
    if (said) return foremost(this.#tracks).filter((track) => said.includes(trackItem(track)));
    const moved = foremost(this.#tracks.filter(hasMoved));
    const network = moved.filter(isWhole);
    return (network.length ? network : moved).slice(0, MOST_TRACKS);
  }

  #choose(track) {
    const drawn = this.#drawn().map(trackItem);
    const item = trackItem(track);
    const others = drawn.filter((each) => each !== item);
    look({ phases: (others.length < drawn.length ? others : [...drawn, item]).join(",") || "none" });
    this.#tellPhases();
  }

  /** Where the set of trained parameters changed: gradients before and after are not of one space. */
  async #unfrozen() {
    const query = new URLSearchParams({ quantity: TRAINABLE, series: "whole", after: this.#trainable.frame, max: MOST_POINTS });
    this.#trainable.take(await ask(`${this.#path}/points?${query}`));
    return marksOf(this.#trainable.list);
  }

  #tellHead(run) {
    document.title = `${run.name} · step ${whole(run.step)} · Phasewatch`;
    const facts = [
      ["id", run.id],
      ["ranks", run.world_size > 1 ? whole(run.world_size) : ""],
      ["host", run.host],
      ["pid", String(run.pid)],
      ["git", run.git_revision.slice(0, 12)],
      ["agent", run.agent_version],
      ["started", moment(run.started_at)],
    ].filter(([, value]) => value);
    const labels = Object.entries(run.labels).map(([name, value]) => el("span", { class: "chip is-cut", title: value }, labelled({ [name]: value })));
    renew(this.head, [run.name, run.state, run.finished, facts, run.labels], () => [
      el(
        "div",
        { class: "run-title" },
        el("h1", { title: run.name }, run.name),
        el(
          "span",
          { class: "run-state" },
          el("span", { class: `state state-${run.state}`, "aria-hidden": "true" }),
          run.state,
          run.finished && run.finished !== run.state ? ` (${run.finished})` : "",
          el("span", { class: "quiet" }, " · "),
          this.heard,
        ),
        ...labels,
        el("a", { class: "button run-beside", href: chosenAddress("/", [run.id], "") }, "Compare with other runs"),
      ),
      el("dl", { class: "run-facts" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    ]);
  }

  /** A second has passed. A run that fell silent sends no tick, so its state is asked for. */
  #pass() {
    this.#tellTime();
    const quiet = Date.now() - this.#last > QUIET_SECONDS * 1000;
    if (quiet && this.#detail && !document.hidden) this.#again();
  }

  #tellTime() {
    if (this.#detail) say(this.heard, `heard ${ago(Math.max(Date.now() / 1000 + this.#skew - this.#detail.run.last_heard, 0))}`);
  }
}

/** What the board asks of time. */
function timeOf(clock) {
  return { offered: BY_TIME, isTold: true, refresh: () => clock.refresh(), axis: (name) => axisOf(name, clock) };
}

/** A transition as one would say it aloud. */
function spoken(transition) {
  const { machine, to_phase: phase, state, happened_step: step, known_step: known, advice } = transition;
  const name = sentence(phaseName(machine, phase));
  if (state === "retracted") return `${name}: withdrawn at step ${whole(known)}. ${advice}`;
  const sure = isBounded(transition) ? `, confidence ${confidence(transition.confidence)}` : "";
  return `${name} since step ${whole(step)}, ${state}${sure}. ${transition.act ? advice : ""}`.trim();
}
