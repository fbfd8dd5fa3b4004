// Compare: several runs beside each other, live or finished: one legend, the phases of each, and every quantity on one chart.

import { look, looked, lookedAt, onBack, packed, unpacked } from "./address.js";
import { Board } from "./board.js";
import { MOST_RUNS, chosen, chosenAddress, chosenBeyond, chosenText, namesOf, toggled, toneAt } from "./choice.js";
import { Compared } from "./compared.js";
import { el, renew, say, swatch } from "./dom.js";
import { whole } from "./format.js";
import { ask, tolerate } from "./link.js";
import { Overlay } from "./overlay.js";
import { PhaseMap } from "./phasemap.js";
import { hasMoved, isWhole, trackItem, trackName, urgency } from "./phases.js";
import { BY_TIME, axisOfRuns } from "./xaxis.js";

const MILLISECONDS_BETWEEN_DRAWINGS = 1000; // several live runs report all the time
const NONE = "none";

export class ComparePage {
  #runs = new Map();
  #drawing = 0;

  constructor() {
    this.heading = el("h1", {}, "Runs beside each other");
    this.back = el("a", { class: "button", href: "/", onclick: () => (this.back.href = chosenAddress("/", chosen())) }, "Choose runs");
    this.beyond = el("span", { class: "quiet" });
    this.roster = el("div", { class: "roster", role: "group", "aria-label": "Runs; press a name to hide or show it" });
    this.machine = el("select", { class: "select", "aria-label": "Whose phases", onchange: () => this.#follow(this.machine.value) });
    this.map = new PhaseMap((track) => this.#hide(track.key), { what: "Phases of each run", how: "press a name to hide or show the run", select: this.machine, most: MOST_RUNS });
    const source = {
      runs: () => this.#shown,
      fetchPoints: (run, { quantity, labels, rank }, after, max) =>
        ask(`${run.path}/points?${new URLSearchParams({ quantity, labels: JSON.stringify(labels), rank, after, max })}`),
    };
    const refresh = () => Promise.all([...this.#runs.values()].map((run) => run.time().catch(tolerate)));
    this.board = new Board((quantity, view) => new Overlay(quantity, view, source), this.map, { offered: [BY_TIME[0]], isTold: false, refresh, axis: axisOfRuns });
    const how = el("p", {}, "Check two or more, up to ", String(MOST_RUNS), ", in ", el("a", { href: "/" }, "the list of runs"), ".");
    this.none = el("section", { class: "welcome", hidden: true }, el("h2", {}, "No run is chosen"), how);
    this.root = el("div", { class: "page compare-page" }, el("div", { class: "page-head" }, this.heading, this.beyond, this.back), this.roster, this.none, this.board.root);
    this.#recall();
    onBack(() => {
      this.#recall();
      this.load().catch(tolerate);
      this.board.restore();
    });
  }

  /** Load what is known of every run, then the points of the charts on screen. */
  async load() {
    await Promise.all([...this.#runs.values()].map((run) => run.load()));
    this.#tell();
    this.board.tick();
  }

  tick(ticks) {
    const ours = ticks.map((tick) => this.#runs.get(tick.run)).filter(Boolean);
    for (const run of ours) {
      run.news++;
      run.soon(() => this.#tell());
    }
    if (ours.length === 0 || this.#drawing) return;
    this.board.tick();
    this.#drawing = setTimeout(() => {
      this.#drawing = 0;
      this.board.tick();
    }, MILLISECONDS_BETWEEN_DRAWINGS);
  }

  transition({ run }) {
    this.#runs.get(run)?.soon(() => this.#tell());
  }

  /** The runs of the address; those that are known already are kept. */
  #recall() {
    const known = this.#runs;
    const kept = (id, place) => (known.get(id)?.tone === toneAt(place) ? known.get(id) : new Compared(id, place));
    this.#runs = new Map(chosen().map((id, place) => [id, id && kept(id, place)]).filter(([id]) => id));
    this.#name();
  }

  #name() {
    const known = [...this.#runs.values()].filter(({ detail }) => detail);
    const names = namesOf(known.map(({ detail }) => detail.run));
    for (const [i, run] of known.entries()) Object.assign(run, names[i]);
  }

  get #hidden() {
    return new Set(lookedAt("hidden").map((item) => unpacked(item)[0]));
  }

  /** The runs that are drawn. */
  get #shown() {
    const hidden = this.#hidden;
    return [...this.#runs.values()].filter(({ id, detail, missing }) => detail && !missing && !hidden.has(id));
  }

  #hide(id) {
    const hidden = this.#hidden;
    if (!hidden.delete(id)) hidden.add(id);
    look({ hidden: hiddenText(hidden) });
    this.#tell();
    this.board.redraw();
  }

  #letGo(id) {
    const hidden = this.#hidden;
    hidden.delete(id);
    look({ runs: chosenText(toggled(chosen(), id)), hidden: hiddenText(hidden) });
    this.#recall();
    this.#tell();
    this.board.redraw();
  }

  #follow(item) {
    look({ phases: item });
    this.#tellPhases();
  }

  #tell() {
    this.#name();
    const runs = [...this.#runs.values()];
    const there = runs.filter(({ missing }) => !missing).length;
    const title = there === 1 ? "1 run" : `${there} runs beside each other`;
    say(this.heading, runs.length ? title : "Runs beside each other");
    document.title = `${runs.length ? title : "Compare"} · Phasewatch`;
    const beyond = chosenBeyond();
    say(this.beyond, beyond ? `${whole(beyond)} more in the address are left out: ${MOST_RUNS} is the most.` : "");
    this.none.hidden = runs.length > 0;
    this.board.root.hidden = runs.length === 0;
    const hidden = this.#hidden;
    const facts = runs.map((run) => [run.id, run.name, run.tone, run.missing, hidden.has(run.id), run.detail?.run.state]);
    renew(this.roster, facts, () => runs.map((run) => this.#entry(run, hidden.has(run.id))));
    this.#tellQuantities(runs.filter(({ detail, missing }) => detail && !missing));
    this.#tellPhases();
  }

  #tellQuantities(runs) {
    const quantities = new Map();
    for (const quantity of runs.flatMap(({ detail }) => detail.quantities)) {
      if (!quantities.has(quantity.name)) quantities.set(quantity.name, { ...quantity, whole: 1, layers: 0 }); // an overlay offers what there is itself
    }
    this.board.setQuantities([...quantities.values()], runs[0]?.detail.outcomes ?? []);
  }

  /** A run of the legend: its colour and name, where it stands, and how to let it go. */
  #entry(run, hidden) {
    const focused = document.activeElement?.dataset.run === run.id;
    const name = run.missing ? `${run.id.slice(0, 12)}: no such run` : run.name;
    const toggle = el(
      "button",
      { type: "button", class: "roster-name", "aria-pressed": String(!hidden), "data-run": run.id, title: `${name}: ${hidden ? "show" : "hide"}`, onclick: () => this.#hide(run.id) },
      swatch("line", `var(${run.tone})`),
      el("span", {}, name),
    );
    if (focused) requestAnimationFrame(() => toggle.focus());
    const state = run.missing ? null : run.detail?.run.state;
    const open = { class: "roster-open", href: `/runs/${encodeURIComponent(run.id)}`, "aria-label": `The page of ${name}`, title: `${state}; its own page` };
    const leave = { type: "button", class: "roster-leave", "aria-label": `Take ${name} out`, title: "Take out", onclick: () => this.#letGo(run.id) };
    return el("span", { class: "roster-run" }, toggle, state ? el("a", open, "↗") : null, el("button", leave, "×"));
  }

  /** The phases by one machine, a row a run. */
  #tellPhases() {
    const moved = byMany([...this.#runs.values()].flatMap(({ tracks }) => tracks.filter(hasMoved)));
    const offered = new Map(moved.map((track) => [trackItem(track), trackName(track)]));
    const said = looked("phases");
    const item = said === NONE || offered.has(said) ? said : [...offered.keys()][0];
    renew(this.machine, [...offered], () => [...[...offered].map(([value, name]) => el("option", { value }, name)), el("option", { value: NONE }, "none")]);
    this.machine.value = item ?? NONE;
    const rows = [...this.#runs.values()].filter(({ detail, missing }) => detail && !missing).map((run) => this.#rowOf(run, item));
    const hidden = this.#hidden;
    this.map.set(offered.size ? rows : [], new Set(rows.map(({ key }) => key).filter((id) => !hidden.has(id))));
    this.board.paint({ tracks: item === NONE ? [] : rows.filter(({ key, spans }) => spans.length > 0 && !hidden.has(key)) });
  }

  #rowOf(run, item) {
    const track = run.tracks.find((each) => trackItem(each) === item) ?? { spans: [], episodes: [], transitions: [], hues: new Map() };
    const at = (step) => (this.board.view.axis.isApart ? run.clock.trained?.at(step) : step);
    return { ...track, key: run.id, name: run.name, tone: run.tone, end: () => run.end, at };
  }
}

/** First those of the whole network that advise something in the most runs, then those that moved in the most. */
function byMany(tracks) {
  const runs = (track, counts) => tracks.filter((each) => each.key === track.key && counts(each)).length;
  const rank = (track) => [Number(isWhole(track)), runs(track, (each) => urgency(each) > 0), runs(track, () => true)];
  const ranked = tracks.map((track) => [track, rank(track)]);
  return ranked.sort(([, a], [, b]) => b[0] - a[0] || b[1] - a[1] || b[2] - a[2]).map(([track]) => track);
}

function hiddenText(ids) {
  return [...ids].map((id) => packed([id])).join(",");
}
