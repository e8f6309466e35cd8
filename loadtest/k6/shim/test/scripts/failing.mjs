// Fails in the way that FAIL names.
import http from 'k6/http';
import { check } from 'k6';
import { Counter } from 'k6/metrics';

const answers = new Counter('answers');

export const options = { thresholds: { checks: ['rate==1'] } };

export function setup() {
  if (__ENV.FAIL === 'setup') throw new Error('nothing to buy');
}

export default function failing() {
  if (__ENV.FAIL === 'exception') throw new Error('an iteration threw');
  const answer = http.get(__ENV.SERVER, { timeout: 200 });
  answers.add(1);
  check(answer, { 'there is an answer': (r) => r.status !== 0 && r.error === '' });
}
