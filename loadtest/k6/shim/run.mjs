// `node run.mjs --iterations 200 --vus 4 [--script FILE]`: runs the k6 script
// under Node. The environment is the script's. Exit 0: every threshold holds;
// 1: one does not, or an iteration threw; 2: the run itself failed. The last
// line on stdout is the summary in JSON: `iterations`, and each counter of the
// script.
import { parseArgs } from 'node:util';
import { fileURLToPath } from 'node:url';
import { run } from './engine.mjs';
import { percentile } from './samples.mjs';

/** @typedef {import('./engine.mjs').Report} Report */

/**
 * @param {string} name
 * @param {string} value
 * @param {number} max
 */
function whole(name, value, max) {
  const number = Number(value);
  if (!/^\d+$/.test(value) || number < 1 || number > max) throw new Error(`--${name}: 1 to ${max}, got "${value}"`);
  return number;
}

function settings() {
  const { values } = parseArgs({
    options: { iterations: { type: 'string' }, vus: { type: 'string' }, script: { type: 'string' } },
  });
  return {
    script: values.script ?? fileURLToPath(new URL('../journey.ts', import.meta.url)),
    iterations: whole('iterations', values.iterations ?? '200', 1_000_000),
    // A VU is a thread; past this, k6 is the tool.
    vus: whole('vus', values.vus ?? '4', 64),
    env: process.env,
  };
}

/** @param {Report} report */
function describe({ metrics, verdicts, exceptions }) {
  for (const [name, { kind, samples }] of metrics.metrics) {
    if (kind !== 'trend' || samples.length === 0) continue;
    const values = samples.map(({ value }) => value);
    const [median, high] = [50, 95].map((percent) => percentile(values, percent).toFixed(1));
    console.log(`${name}: p50 ${median} ms, p95 ${high} ms (${samples.length} samples)`);
  }
  for (const { metric, expression, observed, ok } of verdicts) {
    console.log(`${ok ? 'ok  ' : 'FAIL'} ${metric}: ${expression} (${Number(observed.toFixed(4))})`);
  }
  if (exceptions > 0) console.log(`FAIL ${exceptions} iterations threw`);
  console.log(JSON.stringify({ iterations: metrics.count('iterations'), ...metrics.counts() }));
}

try {
  const report = await run(settings());
  describe(report);
  const failed = report.exceptions > 0 || report.verdicts.some(({ ok }) => !ok);
  process.exitCode = failed ? 1 : 0;
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 2;
}
