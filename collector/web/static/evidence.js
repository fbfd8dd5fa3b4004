// Evidence: the figures behind a claim, each with what it means, and the noise it was judged by.

import { el } from "./dom.js";
import { number, percent, whole, withError, words } from "./format.js";
import { isBounded } from "./phases.js";

const E_PROCESS = "reflected_gauss_e_process";

/** What a verdict on noise means for the claims made in it. */
export const VERDICTS = {
  white: "Probes stray independently of each other; the tests keep their promise.",
  correlated: "Neighbouring probes stray together, so false claims are likelier than alpha says.",
  unassessable: "A random walk of such steps is not ruled out: only what goes much further is claimed.",
  unknown: "Too few probes so far to tell how they stray.",
};

/** A table of everything a transition was judged by. */
export function figures(transition) {
  const { evidence, machine, machine_version: version } = transition;
  const rows = [
    ["Quantity", words(evidence.quantity)],
    ["Statistic", words(evidence.statistic)],
    ["Before", windowText(evidence.before), windowSpan(evidence.before)],
    ["After", windowText(evidence.after), windowSpan(evidence.after)],
    ["Change", evidence.change === null ? "—" : `${evidence.change > 0 ? "+" : "−"}${percent(Math.abs(evidence.change), 3)}`],
    ...strength(transition),
    ["Noise", percent(evidence.noise), "of one probe, relative to the level"],
    ...(evidence.card ? noise(evidence.card) : []),
    ["Probes", whole(evidence.points), evidence.cleaned ? `${whole(evidence.cleaned)} replaced as outliers` : null],
    ["Rule", words(machine), `version ${version}`],
  ];
  return el("table", { class: "figures" }, el("tbody", {}, ...rows.map(row)));
}

/** How strong the evidence is; of a rule of thumb, that its errors are not bounded. */
function strength(transition) {
  const { evidence, state } = transition;
  if (!isBounded(transition)) return [["Errors", "not bounded", "a rule of thumb: nothing limits how often it is wrong"]];
  const fires = `enough at ${number(Math.log(1 / evidence.alpha), 3)}`;
  if (evidence.statistic !== E_PROCESS) return [["log 1/p", number(evidence.log_e), fires]];
  const share = state === "retracted" ? "of the withdrawal being wrong, at most" : "chance of a false claim, at most, in the whole run";
  return [
    ["log e", number(evidence.log_e), fires],
    ["Alpha", number(evidence.alpha), share],
  ];
}

/** The noise card in two lines. */
function noise(card) {
  const parts = [`${percent(card.process)} from training`];
  if (card.estimator !== null) parts.unshift(`${percent(card.estimator)} from the estimator`);
  return [
    ["", parts.join(", "), `autocorrelation ${number(card.autocorrelation, 2)}, tails ${number(card.tails, 2)} times a Gaussian's`],
    ["", card.verdict, VERDICTS[card.verdict]],
  ];
}

function row([name, value, note]) {
  return el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value, note ? el("small", {}, note) : null));
}

function windowText(window) {
  return withError(window.mean, window.stderr);
}

function windowSpan(window) {
  return `${whole(window.n)} probes, steps ${whole(window.first_step)}–${whole(window.last_step)}`;
}
