// Uses each thing that the shim offers, and tells the server of run.test.mjs what it saw.
import http from 'k6/http';
import { check, sleep } from 'k6';
import exec from 'k6/execution';
import { Counter, Rate, Trend } from 'k6/metrics';

const told = new Counter('told');
const even = new Rate('even');
const napped = new Trend('napped', true);

export const options = {
  thresholds: {
    told: ['count==12'],
    even: ['rate==0.5'],
    napped: ['min>=20'],
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    'http_req_duration{step:tell}': ['p(95)<5000'],
  },
};

http.setResponseCallback(http.expectedStatuses(409, { min: 200, max: 299 }));

export function setup() {
  http.post(`${__ENV.SERVER}/setup`, null);
  return { word: __ENV.WORD, dropped: undefined };
}

export default function story(data) {
  const n = exec.scenario.iterationInTest;
  const started = Date.now();
  sleep(0.025);
  napped.add(Date.now() - started);
  const answer = http.post(`${__ENV.SERVER}/tell`, JSON.stringify({ n, vu: exec.vu.idInTest, ...data }), {
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': `story:${n}` },
    tags: { step: 'tell' },
    timeout: '5s',
  });
  check(answer, {
    'a conflict is an answer': (r) => r.status === 409,
    'the body came back': (r) => r.json().key === `story:${n}`,
    'headers are spelled as k6 does': (r) => r.headers['Retry-After'] === '1',
  });
  told.add(1);
  even.add(n % 2 === 0);
}

export function teardown(data) {
  http.get(`${__ENV.SERVER}/teardown?word=${data.word}`);
  console.log('the story is told');
}
