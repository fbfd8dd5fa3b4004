// Time ticks: round numbers of seconds, minutes and hours, and round times of day.

import { linearTicks } from "./axes.js";

const MINUTE = 60;
const HOUR = 3600;
const DAY = 86_400;
const ROUND = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY];

/** Ticks between two numbers of seconds, at most about `count`: `{ ticks: [{ x, text }], unit }`. */
export function elapsedTicks(low, high, count) {
  const most = high > 2 * MINUTE ? Math.max(high - low, 1) : Infinity; // behind minutes whole seconds are told
  const few = Math.min(count, most);
  const step = stride(low, high, few);
  const [unit, text] = wording(step, high);
  return { ticks: multiples(low, high, step, few).map((x) => ({ x, text: text(x) })), unit };
}

/** The same between two moments, Unix seconds, by the reader's calendar; the unit is the day, or the days. */
export function dayTicks(low, high, count) {
  const step = stride(low, high, count);
  const ahead = (x) => -new Date(x * 1000).getTimezoneOffset() * MINUTE; // of UTC, as round times are the reader's; in summer by an hour more
  const text = (x) => {
    if (step >= DAY || (x + ahead(x)) % DAY === 0) return date(x, { day: "numeric", month: "short" });
    const seconds = step < MINUTE ? { second: "2-digit" } : {};
    const part = step < 1 ? { fractionalSecondDigits: Math.min(Math.ceil(-Math.log10(step)), 3) } : {};
    return date(x, { hour: "2-digit", minute: "2-digit", ...seconds, ...part });
  };
  const there = multiples(low + ahead(low), high + ahead(high), step, count);
  const ticks = there.map((x) => x - ahead(x - ahead(low))).map((x) => ({ x, text: text(x) }));
  const whole = { day: "numeric", month: "short", year: "numeric" };
  const days = new Intl.DateTimeFormat("en-GB", whole).formatRange(low * 1000, high * 1000);
  return { ticks, unit: days };
}

function stride(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  return ROUND.find((each) => each >= rough * 0.999999) ?? Infinity;
}

/** Below a second and beyond a day, where time is counted in tens, as on any axis. */
function multiples(low, high, step, count) {
  if ((high - low) / Math.max(count, 1) < 0.5) return linearTicks(low, high, count);
  if (step === Infinity) return linearTicks(low / DAY, high / DAY, count).filter(Number.isInteger).map((days) => days * DAY);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

/** What is counted, and how it reads, where ticks are so far apart and go so far. */
function wording(step, high) {
  if (step > 12 * HOUR) return ["days", (x) => String(Math.round(x / DAY))];
  if (step >= HOUR) return ["hours", (x) => String(Math.round(x / HOUR))];
  if (step >= MINUTE) return high <= 2 * HOUR ? ["minutes", (x) => String(Math.round(x / MINUTE))] : ["h:min", (x) => colons(x, HOUR, MINUTE)];
  if (high <= 2 * MINUTE) return ["seconds", (x) => String(Number(x.toPrecision(6)))];
  return high < HOUR ? ["min:s", (x) => colons(x, MINUTE, 1)] : ["h:min:s", (x) => `${colons(x, HOUR, MINUTE)}:${two(Math.floor(x % MINUTE))}`];
}

function colons(x, large, small) {
  return `${Math.floor(x / large)}:${two(Math.floor((x % large) / small))}`;
}

function two(n) {
  return String(n).padStart(2, "0");
}

function date(unixSeconds, wanted) {
  return new Date(unixSeconds * 1000).toLocaleString("en-GB", wanted);
}
