// Compared: one of the runs beside each other, and what is known of it.

import { toneAt } from "./choice.js";
import { Clock } from "./clock.js";
import { ask, tolerate } from "./link.js";
import { tracksOf } from "./phases.js";

const SECONDS_BETWEEN = 2;

/** `news` grows with every report; `end` is the furthest step seen on a chart. */
export class Compared {
  detail = null;
  tracks = [];
  missing = false;
  news = 0;
  name = "";
  short = "";
  end = 0;
  #named = [];
  #counted = "";
  #last = 0;
  #waiting = 0;
  #timed = -1;

  constructor(id, place) {
    this.id = id;
    this.tone = toneAt(place);
    this.path = `/api/runs/${encodeURIComponent(id)}`;
    this.clock = new Clock(this.path);
  }

  /** Ask when its steps were, where there are new ones. */
  async time() {
    const { news } = this;
    if (this.missing || this.#timed === news) return;
    await this.clock.refresh();
    this.#timed = news;
  }

  /** The series of a quantity: `{ labels, rank, ranks }`. */
  series(quantity) {
    return this.#named.filter((each) => each.quantity === quantity);
  }

  async load() {
    this.#last = Date.now();
    try {
      const [detail, transitions] = await Promise.all([ask(this.path), ask(`${this.path}/transitions`)]);
      const counted = JSON.stringify(detail.quantities.map(({ name, whole: all, layers }) => [name, all, layers]));
      if (counted !== this.#counted) this.#named = await ask(`${this.path}/series`);
      this.#counted = counted;
      this.detail = detail;
      this.tracks = tracksOf(detail.spans, transitions);
      this.missing = false;
    } catch (error) {
      if (error.status !== 404) throw error;
      this.missing = true;
    }
    this.news++;
  }

  /** Load once within a while, however often it is asked for. */
  soon(then) {
    clearTimeout(this.#waiting);
    this.#waiting = setTimeout(() => this.load().then(then).catch(tolerate), Math.max(SECONDS_BETWEEN * 1000 - (Date.now() - this.#last), 0));
  }
}
