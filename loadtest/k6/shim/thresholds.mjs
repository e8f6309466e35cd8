// k6's thresholds, as far as strings go: `metric` or `metric{tag:value}`, and
// `count==0`, `rate<0.01`, `p(95)<500`, `avg`, `min`, `med`, `max`. Anything
// else is refused by name: a threshold that is silently skipped proves nothing.
import { percentile, sum } from './samples.mjs';

/**
 * @typedef {{ metric: string, expression: string, observed: number, ok: boolean }} Verdict
 */

/** @type {Record<string, (a: number, b: number) => boolean>} */
const compare = {
  '<': (a, b) => a < b,
  '<=': (a, b) => a <= b,
  '>': (a, b) => a > b,
  '>=': (a, b) => a >= b,
  '==': (a, b) => a === b,
  '===': (a, b) => a === b,
  '!=': (a, b) => a !== b,
};

/** @type {Record<import('./samples.mjs').Kind, RegExp>} */
const aggregates = {
  counter: /^count$/,
  rate: /^rate$/,
  trend: /^(avg|min|med|max|p\((\d+(?:\.\d+)?)\))$/,
};

/**
 * @param {import('./samples.mjs').Metrics} metrics
 * @param {Record<string, unknown>} thresholds  as in the script's options
 * @returns {Verdict[]}
 */
export function judge(metrics, thresholds) {
  return Object.entries(thresholds).flatMap(([key, expressions]) => {
    if (!Array.isArray(expressions)) throw new Error(`thresholds of ${key}: expected a list`);
    const { name, tags } = parseKey(key);
    const metric = metrics.metrics.get(name);
    if (metric === undefined) throw new Error(`threshold on ${key}: there is no such metric`);
    const values = metric.samples
      .filter((sample) => Object.entries(tags).every(([tag, value]) => sample.tags[tag] === value))
      .map((sample) => sample.value);
    return expressions.map((expression) => judgeOne(key, metric.kind, values, expression));
  });
}

/** @param {string} key */
function parseKey(key) {
  const match = /^(\w+)(?:\{([^}]+)\})?$/.exec(key);
  if (match?.[1] === undefined) throw new Error(`threshold on ${key}: not a metric's name`);
  const pairs = (match[2] ?? '').split(',').filter((pair) => pair !== '');
  /** @type {Record<string, string>} */
  const tags = {};
  for (const pair of pairs) {
    const at = pair.indexOf(':');
    if (at < 1) throw new Error(`threshold on ${key}: expected tag:value, got ${pair}`);
    tags[pair.slice(0, at).trim()] = pair.slice(at + 1).trim();
  }
  return { name: match[1], tags };
}

/**
 * @param {string} metric
 * @param {import('./samples.mjs').Kind} kind
 * @param {number[]} values
 * @param {unknown} expression
 * @returns {Verdict}
 */
function judgeOne(metric, kind, values, expression) {
  if (typeof expression !== 'string') throw new Error(`threshold on ${metric}: only strings are understood`);
  const match = /^([a-z]+(?:\([\d.]+\))?)\s*([<>=!]=?=?)\s*([\d.]+)$/.exec(expression.trim());
  const holds = compare[match?.[2] ?? ''];
  if (match?.[1] === undefined || holds === undefined || !aggregates[kind].test(match[1])) {
    throw new Error(`threshold ${expression} on ${metric}: not understood for a ${kind}`);
  }
  const observed = aggregate(match[1], values);
  return { metric, expression, observed, ok: holds(observed, Number(match[3])) };
}

/**
 * @param {string} name
 * @param {number[]} values
 */
function aggregate(name, values) {
  if (name === 'count') return sum(values);
  if (name === 'rate' || name === 'avg') return values.length === 0 ? 0 : sum(values) / values.length;
  if (name === 'min') return percentile(values, 0);
  if (name === 'med') return percentile(values, 50);
  if (name === 'max') return percentile(values, 100);
  return percentile(values, Number(name.slice(2, -1)));
}
