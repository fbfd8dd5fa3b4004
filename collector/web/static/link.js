// The link to the collector: JSON on request, and its news as server-sent events while the page is seen.

const FIRST_WAIT = 1000;
const LONGEST_WAIT = 15_000;

/** The collector said no, in its own words; or, with status 0, said nothing. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Fetch JSON; throws Refused. */
export async function ask(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } }).catch(() => {
    throw new Refused(0, "The collector does not answer. What you see is what it last said; trying again.");
  });
  if (response.status === 401) location.replace(`/login#${location.pathname}${location.search}${location.hash}`);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, body.error ?? `The collector answered with status ${response.status}.`);
  return body;
}

/** For a request whose failure the banner already tells: anything else is a mistake of ours and stays loud. */
export function tolerate(error) {
  if (!(error instanceof Refused)) throw error;
}

/**
 * Dispatches `tick`, `transition` (with `detail`), `fresh` (load everything: connected, or missed
 * something) and `state` ("live", "connecting", "lost", "paused"). Silent while the page is hidden.
 */
export class Link extends EventTarget {
  #source = null;
  #timer = 0;
  #wait = FIRST_WAIT;
  state = "connecting";

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#pause() : this.#open()));
    addEventListener("pagehide", () => this.#stop());
    addEventListener("pageshow", (event) => event.persisted && this.#open());
  }

  start() {
    if (document.hidden) this.#pause();
    else this.#open();
  }

  #open() {
    this.#stop();
    if (this.state !== "lost") this.#become("connecting");
    const source = (this.#source = new EventSource("/api/feed"));
    source.addEventListener("hello", () => {
      this.#wait = FIRST_WAIT;
      this.#become("live");
      this.#tell("fresh");
    });
    source.addEventListener("reload", () => this.#tell("fresh"));
    source.addEventListener("tick", (event) => this.#tell("tick", JSON.parse(event.data)));
    source.addEventListener("transition", (event) => this.#tell("transition", JSON.parse(event.data)));
    source.addEventListener("error", () => this.#retry());
  }

  /** The browser's own retry gives up for good on some failures, so this is ours. */
  #retry() {
    this.#stop();
    this.#become("lost");
    ask("/api/runs").catch(tolerate); // an event stream does not tell that the login has ended; this does
    this.#timer = setTimeout(() => this.#open(), this.#wait);
    this.#wait = Math.min(this.#wait * 1.6, LONGEST_WAIT);
  }

  #pause() {
    this.#stop();
    this.#become("paused");
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #become(state) {
    this.state = state;
    this.#tell("state", state);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
