// Metric samples: taken in a VU's thread, added up in the main thread, and read
// by thresholds and the summary.

/**
 * @typedef {'counter' | 'rate' | 'trend'} Kind
 * @typedef {{ metric: string, value: number, tags: Record<string, string> }} Sample
 * @typedef {{ kind: Kind, samples: { value: number, tags: Record<string, string> }[] }} Metric
 */

/** k6's own metrics, as far as the shim measures them. */
export const BUILT_IN = /** @type {const} */ ({
  checks: 'rate',
  http_req_duration: 'trend',
  http_req_failed: 'rate',
  http_reqs: 'counter',
  iteration_duration: 'trend',
  iterations: 'counter',
});

/** What one thread knows: which metrics exist, and the samples it took. */
export class Recorder {
  constructor() {
    /** @type {Map<string, Kind>} */
    this.kinds = new Map(Object.entries(BUILT_IN));
    /** @type {Sample[]} */
    this.samples = [];
  }

  /**
   * @param {string} metric
   * @param {Kind} kind
   */
  define(metric, kind) {
    const known = this.kinds.get(metric);
    if (known !== undefined && known !== kind) throw new Error(`metric ${metric} is a ${known}, not a ${kind}`);
    this.kinds.set(metric, kind);
  }

  /**
   * @param {string} metric
   * @param {number | boolean} value
   * @param {Record<string, string>} [tags]
   */
  add(metric, value, tags = {}) {
    this.samples.push({ metric, value: Number(value), tags });
  }

  /** Hands over what was taken so far. */
  take() {
    const samples = this.samples;
    this.samples = [];
    return { kinds: [...this.kinds], samples };
  }
}

/** All threads' samples together. */
export class Metrics {
  constructor() {
    /** @type {Map<string, Metric>} */
    this.metrics = new Map();
  }

  /** @param {ReturnType<Recorder['take']>} taken */
  absorb({ kinds, samples }) {
    for (const [name, kind] of kinds) {
      if (!this.metrics.has(name)) this.metrics.set(name, { kind, samples: [] });
    }
    for (const { metric, value, tags } of samples) {
      this.metrics.get(metric)?.samples.push({ value, tags });
    }
  }

  /** The sum of a counter; 0 where it does not exist. @param {string} name */
  count(name) {
    return sum((this.metrics.get(name)?.samples ?? []).map(({ value }) => value));
  }

  /** Every counter that the script made, with its sum. */
  counts() {
    return Object.fromEntries(
      [...this.metrics]
        .filter(([name, { kind }]) => kind === 'counter' && !(name in BUILT_IN))
        .map(([name]) => [name, this.count(name)]),
    );
  }
}

/** @param {number[]} values */
export function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

/**
 * A percentile by linear interpolation between the two nearest ranks, as k6
 * computes it; 0 of nothing.
 *
 * @param {number[]} values
 * @param {number} percent
 */
export function percentile(values, percent) {
  if (values.length === 0) return 0;
  const sorted = [...values].sort((a, b) => a - b);
  const rank = (percent / 100) * (sorted.length - 1);
  const low = sorted[Math.floor(rank)] ?? 0;
  const high = sorted[Math.ceil(rank)] ?? low;
  return low + (high - low) * (rank - Math.floor(rank));
}
