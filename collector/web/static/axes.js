// Axes: ranges and ticks. Steps on a logarithmic axis start at 0, by asinh, since step 0 is where a run begins.

const NICE = [1, 2, 2.5, 5, 10];

/** Round ticks of a linear axis, at most about `count`. */
export function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * NICE.find((nice) => nice * power >= rough * 0.999999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

/** Ticks of a logarithmic axis: powers of ten, with 2 and 5 where there is room; linear ones within a short range. */
export function logTicks(low, high, count) {
  const start = Math.max(low, Number.MIN_VALUE);
  const decades = Math.log10(high / start);
  if (decades < 0.8) return linearTicks(low, high, count);
  const leads = decades * 3 <= count ? [1, 2, 5] : decades * 2 <= count ? [1, 3] : [1];
  const skip = leads.length === 1 ? Math.max(Math.ceil(decades / Math.max(count, 1)), 1) : 1;
  const ticks = [];
  for (let power = Math.floor(Math.log10(start)); power <= Math.ceil(Math.log10(high)); power++) {
    if (power % skip !== 0) continue;
    for (const lead of leads) {
      const x = Number(`${lead}e${power}`);
      if (x >= start * 0.999999 && x <= high * 1.000001) ticks.push(x);
    }
  }
  return ticks.length >= 2 ? ticks : linearTicks(low, high, count);
}

/** Ticks of the step axis. */
export function stepTicks(low, high, count, logarithmic) {
  if (!logarithmic) return linearTicks(low, high, count).filter(Number.isInteger);
  if (low >= 1) return logTicks(low, high, count).filter(Number.isInteger);
  return [0, ...logTicks(1, Math.max(high, 2), count).filter(Number.isInteger)];
}

/**
 * The range of a linear axis around the values drawn. The band may add as much again on each side
 * and no more: one wild error must not flatten the curve.
 */
export function linearRange(values, bounds, ratio) {
  let [low, high] = extent(values);
  if (low === null) return [0, 1];
  const reach = Math.max(high > low ? high - low : Math.abs(high), 1e-12); // a single point has its whole band
  const [bandLow, bandHigh] = extent(bounds);
  if (bandLow !== null) [low, high] = [Math.max(Math.min(low, bandLow), low - reach), Math.min(Math.max(high, bandHigh), high + reach)];
  const pad = Math.max(0.06 * (high - low), Math.abs(high) * (high > low ? 1e-6 : 0.05), 1e-12);
  [low, high] = [low - pad, high + pad];
  if (ratio) return [Math.max(low, -0.02), Math.min(high, 1.02)];
  return [low < 0 && extent(values)[0] >= 0 ? 0 : low, high];
}

/** The range of a logarithmic axis around the positive values drawn; at least half a decade. */
export function logRange(values) {
  let [low, high] = extent(values.filter((x) => x > 0));
  if (low === null) return [0.1, 1];
  const middle = Math.sqrt(low * high);
  low = Math.min(low, middle / 1.8);
  high = Math.max(high, middle * 1.8);
  const pad = (high / low) ** 0.05;
  return [low / pad, high * pad];
}

function extent(values) {
  let low = null;
  let high = null;
  for (const x of values) {
    if (x === null || x === undefined) continue;
    if (low === null || x < low) low = x;
    if (high === null || x > high) high = x;
  }
  return [low, high];
}
