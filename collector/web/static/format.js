// Numbers, times and names as people read them.

const grouped = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** A count or a step: 12,345. */
export function whole(n) {
  return grouped.format(n);
}

/** A number to a few significant digits: 0.01234, 1,234, 1.2 × 10⁻⁷. */
export function number(x, digits = 4) {
  if (x === null || x === undefined) return "—";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e6 || size < 1e-4) return scientific(x, digits);
  if (size >= 10 ** (digits - 1) - 0.5) return grouped.format(x).replace("-", "−");
  return String(Number(x.toPrecision(digits))).replace("-", "−");
}

/** A number with its standard error, both to the error's second digit: 3.142 ± 0.021. */
export function withError(value, stderr) {
  if (value === null || value === undefined) return "—";
  if (stderr === null || stderr === undefined || !(stderr > 0)) return number(value);
  const lead = Math.floor(Math.log10(stderr));
  const size = Math.max(Math.abs(value), stderr);
  if (size >= 1e6 || size < 1e-4) {
    const power = Math.floor(Math.log10(size));
    const places = Math.min(Math.max(power - lead + 1, 0), 6);
    const [a, b] = [value, stderr].map((x) => (x / 10 ** power).toFixed(places).replace("-", "−"));
    return `(${a} ± ${b}) × 10${superscript(power)}`;
  }
  const places = Math.min(Math.max(1 - lead, 0), 8);
  const exact = new Intl.NumberFormat("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
  return `${exact.format(value).replace("-", "−")} ± ${exact.format(stderr)}`;
}

/** A tick of an axis: short, and a power of ten as one. */
export function tick(x) {
  if (x === null) return null;
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) {
    const power = Math.floor(Math.log10(size) + 1e-9);
    const lead = Number((x / 10 ** power).toPrecision(3));
    return lead === 1 ? `10${superscript(power)}` : `${String(lead).replace("-", "−")}·10${superscript(power)}`;
  }
  return new Intl.NumberFormat("en-US", { maximumSignificantDigits: 6 }).format(x).replace("-", "−");
}

/** A tick of an axis of steps up to `high`: where they are many all of them in thousands, or millions. */
export function stepTick(x, high) {
  if (high < 1e5 || x < 1000) return tick(x);
  return x < 1e6 ? `${Number((x / 1e3).toPrecision(6))}k` : `${Number((x / 1e6).toPrecision(6))}M`;
}

/** A share from 0 to 1 as a percentage; `digits` are significant ones. */
export function percent(share, digits = 2) {
  if (share === null || share === undefined) return "—";
  return `${Number((100 * share).toPrecision(digits))}\u00a0%`;
}

/** How sure a transition is. Never 100 %: certainty is not on offer. */
export function confidence(p) {
  if (p > 0.999) return ">\u00a099.9\u00a0%"; // as on the command line: further out no noise is Gaussian
  return `${(Math.floor(p * 1000) / 10).toFixed(1)}\u00a0%`;
}

/** Seconds as a person would say them. */
export function duration(seconds) {
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${Number((seconds * 1000).toPrecision(3))} ms`;
  if (seconds < 100) return `${Number(seconds.toPrecision(3))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129_600) return `${Number((seconds / 3600).toPrecision(2))} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/** Seconds to be read off a chart, none rounded away: 12 min 5 s. */
export function elapsed(seconds) {
  const s = Math.round(seconds);
  if (s < 60) return seconds < 9.95 ? `${seconds.toFixed(1)} s` : `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  const hours = `${Math.floor((s % 86_400) / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return s < 86_400 ? `${hours} ${s % 60} s` : `${whole(Math.floor(s / 86_400))} d ${hours}`;
}

/** A moment to be read off a chart, by the reader's clock. */
export function instant(unixSeconds) {
  return new Date(unixSeconds * 1000).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** 1500000 → "1.5 MB". */
export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, n)) / 3));
  return `${number(n / 1000 ** power, 2)} ${units[power]}`;
}

/** How long ago, by the collector's clock. */
export function ago(seconds) {
  return seconds < 2 ? "just now" : `${duration(Math.round(seconds))} ago`;
}

/** A moment, by the reader's clock. */
export function moment(unixSeconds) {
  return new Date(unixSeconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** A name of the wire as words: `critical_period` is "critical period". */
export function words(name) {
  return name.replaceAll("_", " ");
}

/** The unit as it stands behind a number; a pure number and a ratio have none. */
export function unit(name) {
  return name === "1" || name === "ratio" ? "" : name;
}

/** The unit as it stands beside a title. */
export function unitName(name) {
  return name === "1" ? "dimensionless" : name === "ratio" ? "ratio, 0 to 1" : name;
}

/** Labels as words: "layer fc1, split test". */
export function labelled(labels) {
  return Object.entries(labels)
    .map(([name, value]) => `${words(name)} ${value}`)
    .join(", ");
}

/** Dotted names without what all of them share at either end: `h.0.mlp`, `h.1.mlp` are "0" and "1". */
export function distinct(names) {
  if (names.length < 2) return names;
  const parts = names.map((name) => name.split("."));
  const shortest = Math.min(...parts.map((each) => each.length));
  const shared = (at) => parts.every((each) => each.at(at) === parts[0].at(at));
  let head = 0;
  let tail = 0;
  while (head < shortest - 1 && shared(head)) head++;
  while (tail < shortest - 1 - head && shared(-1 - tail)) tail++;
  return parts.map((each) => each.slice(head, each.length - tail).join("."));
}

/** First letter in upper case. */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function scientific(x, digits) {
  const [lead, power] = x.toExponential(Math.max(digits - 2, 0)).split("e");
  return `${String(Number(lead)).replace("-", "−")} × 10${superscript(Number(power))}`;
}

function superscript(power) {
  const digits = String(Math.abs(power)).replace(/\d/g, (digit) => SUPERSCRIPTS[Number(digit)]);
  return power < 0 ? `⁻${digits}` : digits;
}
