// The journey's rules, against the vectors that the goose program is held to as well.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { importable } from '../compile.mjs';

const vectors = JSON.parse(readFileSync(new URL('../../../vectors.json', import.meta.url), 'utf8'));
const { url, dispose } = importable(fileURLToPath(new URL('../../outcome.ts', import.meta.url)));
after(dispose);
const beside = (/** @type {string} */ name) => import(url.replace('outcome', name));
const { classify } = await beside('outcome');
const { endingOf, mix, parseShares, userOf } = await beside('plan');
const { ATTEMPTS_MAX, backoffMs } = await beside('retry');

test('the same seed draws the same numbers as the goose program', () => {
  for (const { seed, n, value } of vectors.mix) assert.equal(mix(seed, n), value, `mix(${seed}, ${n})`);
});

test('the same seed ends the same buyers the same way', () => {
  for (const { seed, shares, first } of vectors.endings) {
    const endings = Array.from(first, (_, n) => endingOf(seed, n, parseShares(shares))[0]);
    assert.equal(endings.join(''), first, `seed ${seed}, shares ${shares}`);
  }
});

test('the shares come out as asked over many buyers', () => {
  const shares = parseShares('60/20/20');
  const seen = { commit: 0, release: 0, walk: 0 };
  for (let n = 0; n < 100_000; n += 1) seen[/** @type {keyof typeof seen} */ (endingOf(9, n, shares))] += 1;
  assert.ok(Math.abs(seen.commit - 60_000) < 600, JSON.stringify(seen));
  assert.ok(Math.abs(seen.release - 20_000) < 600, JSON.stringify(seen));
});

test('shares that mean nothing are refused', () => {
  for (const text of vectors.sharesRefused) assert.throws(() => parseShares(text), /SHARES/, text);
});

test('a client waits attempt x 300 ms, and gives up after three attempts', () => {
  assert.equal(ATTEMPTS_MAX, vectors.attemptsMax);
  assert.deepEqual([1, 2].map(backoffMs), vectors.backoffMs);
  assert.equal(backoffMs(3), undefined);
});

test('every answer means what the contract says', () => {
  for (const { step, status, word, outcome } of vectors.answers) {
    assert.equal(classify(step, status, word), outcome, `${step} ${status} ${word}`);
  }
});

test('buyers are different people unless there are only so many', () => {
  assert.equal(userOf('r', 'ramp', 7, 0), 'r-ramp-u7');
  assert.equal(userOf('r', 'ramp', 7, 5), 'r-u2');
});
