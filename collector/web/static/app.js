// The page: which of its views the address asks for, and the link that keeps it current.

import { ComparePage } from "./compare.js";
import { el, say } from "./dom.js";
import { Link, tolerate } from "./link.js";
import { RunPage } from "./run.js";
import { RunsPage } from "./runs.js";
import { themeButton } from "./theme.js";

const LINK_WORDS = { live: "live", connecting: "connecting", lost: "no connection", paused: "paused" };
const find = (id) => document.getElementById(id);

const id = location.pathname.startsWith("/runs/") ? decodeURIComponent(location.pathname.slice("/runs/".length)) : null;
const view = viewOf(location.pathname);
const link = new Link();

themeButton(find("theme"));
if (id !== null) say(find("here"), id);
if (view instanceof ComparePage) say(find("here"), "Compare");
find("main").append(view.root);

link.addEventListener("state", () => {
  const { state } = link;
  find("link").dataset.state = state;
  say(find("link"), LINK_WORDS[state]);
  if (state === "lost") warn("The collector does not answer. What you see is what it last said; trying again.");
  if (state === "live") calm();
});
link.addEventListener("fresh", load);
link.addEventListener("tick", (event) => view.tick(event.detail));
link.addEventListener("transition", (event) => view.transition(event.detail));
link.start();
load();

function viewOf(path) {
  if (path === "/compare") return new ComparePage();
  return id === null ? new RunsPage() : new RunPage(id, { announce: (text) => say(find("announcer"), text), gone: missing });
}

async function load() {
  try {
    await view.load();
    if (link.state !== "lost") calm();
    if (id !== null) say(find("here"), document.querySelector("h1")?.textContent ?? id);
  } catch (error) {
    tolerate(error);
    if (error.status === 404) missing(error.message);
    else warn(error.message);
  }
}

function missing(sentence) {
  document.title = "No such run · Phasewatch";
  find("main").replaceChildren(
    el("section", { class: "welcome" }, el("h1", {}, "No such run"), el("p", {}, sentence), el("p", {}, el("a", { href: "/" }, "All runs"))),
  );
}

function warn(sentence) {
  find("banner").hidden = false;
  say(find("banner"), sentence);
}

function calm() {
  find("banner").hidden = true;
}
