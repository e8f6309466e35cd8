// Metrics are added up, and thresholds judged, as k6 does.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Metrics, percentile, Recorder } from '../samples.mjs';
import { judge } from '../thresholds.mjs';

function sampled() {
  const recorder = new Recorder();
  recorder.define('sold', 'counter');
  recorder.define('never', 'counter');
  recorder.add('sold', 2);
  recorder.add('sold', 3);
  recorder.add('checks', true);
  recorder.add('checks', false);
  for (const [ms, step] of /** @type {[number, string][]} */ ([[10, 'look'], [20, 'look'], [900, 'reserve']])) {
    recorder.add('http_req_duration', ms, { step });
  }
  const metrics = new Metrics();
  metrics.absorb(recorder.take());
  metrics.absorb(recorder.take());
  return metrics;
}

/** @param {string} key @param {string} expression */
const verdict = (key, expression) => judge(sampled(), { [key]: [expression] })[0];

test('counters, rates and trends are judged by their aggregate', () => {
  assert.deepEqual(verdict('sold', 'count==5'), { metric: 'sold', expression: 'count==5', observed: 5, ok: true });
  assert.equal(verdict('sold', 'count<5')?.ok, false);
  assert.equal(verdict('checks', 'rate==1')?.ok, false);
  assert.equal(verdict('checks', 'rate >= 0.5')?.ok, true);
  assert.equal(verdict('http_req_duration', 'max<900')?.ok, false);
  assert.equal(verdict('http_req_duration', 'avg<=310')?.ok, true);
});

test('a threshold with a tag looks at that tag alone', () => {
  assert.equal(verdict('http_req_duration{step:look}', 'p(95)<20')?.observed, 19.5);
  assert.equal(verdict('http_req_duration{step:reserve}', 'p(95)<500')?.ok, false);
  assert.equal(verdict('http_req_duration{step:commit}', 'p(95)<500')?.ok, true);
});

test('a threshold that is not understood is refused, not skipped', () => {
  assert.throws(() => verdict('nothing', 'count==0'), /no such metric/);
  assert.throws(() => verdict('sold', 'p(95)<5'), /not understood for a counter/);
  assert.throws(() => verdict('sold', 'count=5'), /not understood/);
  assert.throws(() => verdict('http_req_duration{step}', 'max<5'), /expected tag:value/);
  assert.throws(() => judge(sampled(), { sold: [{ threshold: 'count<5', abortOnFail: true }] }), /only strings/);
});

test('every counter of the script is in the summary, the untouched ones too', () => {
  assert.deepEqual(sampled().counts(), { sold: 5, never: 0 });
});

test('a percentile lies between its two nearest ranks', () => {
  assert.equal(percentile([], 95), 0);
  assert.equal(percentile([4], 95), 4);
  assert.equal(percentile([3, 1, 2], 50), 2);
  assert.equal(percentile([0, 100], 95), 95);
});
