// One buyer's journey against flashgate: look at the item, reserve under an
// idempotency key, then pay, let go, or walk away. ../src is the same journey as
// a goose program; ../README.md says what the numbers mean.
//
// k6 cannot start another process, so the proof that the ledger is right comes
// from run.sh, which runs `flashgate verify` after this script.
import http from 'k6/http';
import type { RefinedResponse } from 'k6/http';
import { check, sleep } from 'k6';
import exec from 'k6/execution';
import { Counter, Rate, Trend } from 'k6/metrics';
import type { Options, Scenario } from 'k6/options';
import { classify } from './outcome.ts';
import type { Outcome, Step } from './outcome.ts';
import { endingOf, parseShares, userOf } from './plan.ts';
import { backoffMs } from './retry.ts';

const text = (name: string, fallback: string): string => __ENV[name] || fallback;

function whole(name: string, fallback: number): number {
  const value = Number(text(name, String(fallback)));
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`${name}: expected a whole number, got "${__ENV[name]}"`);
  return value;
}

const baseUrl = text('BASE_URL', 'http://127.0.0.1:8080').replace(/\/+$/, '');
const adminUrl = text('ADMIN_URL', '').replace(/\/+$/, '');
const saleId = text('SALE_ID', 'demo');
const skuId = text('SKU_ID', 'demo-hot');
const locationId = text('LOCATION_ID', 'wh1');
const quantity = whole('QUANTITY', 1);
const users = whole('USERS', 0);
const seed = whole('SEED', 1);
const shares = parseShares(text('SHARES', '60/20/20'));
const p95Ms = whole('P95_MS', 500);
const rate = whole('RATE', 200);
const burst = whole('BURST', 500);

const scenarios: Record<string, Scenario> = {};
if (rate > 0) {
  // Open model: buyers arrive whether or not the gateway keeps up.
  scenarios.ramp = {
    executor: 'ramping-arrival-rate',
    startRate: 1,
    timeUnit: '1s',
    stages: [
      { target: rate, duration: text('RAMP', '30s') },
      { target: rate, duration: text('HOLD', '60s') },
      { target: 0, duration: '5s' },
    ],
    preAllocatedVUs: Math.min(rate, 200),
    maxVUs: whole('VUS_MAX', 2000),
  };
}
if (burst > 0) {
  // T0: this many buyers press the button in the same instant, once each.
  scenarios.burst = {
    executor: 'per-vu-iterations',
    vus: burst,
    iterations: 1,
    startTime: text('T0', '45s'),
    maxDuration: '60s',
  };
}

export const options: Options = {
  scenarios,
  thresholds: {
    errors: ['count==0'],
    failed: [`rate<${text('FAILED_MAX', '0.005')}`],
    checks: ['rate==1'],
    'http_req_duration{step:look}': [`p(95)<${p95Ms}`],
    'http_req_duration{step:reserve}': [`p(95)<${p95Ms}`],
    'http_req_duration{step:commit}': [`p(95)<${p95Ms}`],
    'http_req_duration{step:release}': [`p(95)<${p95Ms}`],
  },
};

/** How a journey can end; every journey adds one to exactly one of these. */
type End = Exclude<Outcome, 'looked' | 'durable' | 'accepted' | 'busy'> | 'walkedAway' | 'gaveUp';

const ends: Record<End, Counter> = {
  committed: new Counter('committed'),
  released: new Counter('released'),
  walkedAway: new Counter('walkedAway'),
  soldOut: new Counter('soldOut'),
  limited: new Counter('limited'),
  notLive: new Counter('notLive'),
  expired: new Counter('expired'),
  rejected: new Counter('rejected'),
  gaveUp: new Counter('gaveUp'),
  errors: new Counter('errors'),
};
const reserved = new Counter('reserved');
const durable = new Counter('durable');
const retried = new Counter('retried');
const failed = new Rate('failed');
const reserveTime = new Trend('reserve_with_retries', true);

// Refusals that the contract foresees are answers; k6's http_req_failed counts the rest.
http.setResponseCallback(http.expectedStatuses(200, 201, 202, 409));

/** What `setup` tells every buyer. */
interface Run {
  run: string;
}

type Body = Record<string, unknown>;

function bodyOf(response: RefinedResponse<undefined>): Body {
  try {
    const body: unknown = JSON.parse(response.body ?? '');
    return typeof body === 'object' && body !== null ? (body as Body) : {};
  } catch {
    return {};
  }
}

interface Answer {
  outcome: Exclude<Outcome, 'busy'> | 'gaveUp';
  body: Body;
}

/** Asks until the answer is more than "not now", or the attempts are used up. */
function ask(step: Step, path: string, key: string, body?: Body): Answer {
  const params = {
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key },
    tags: { step, name: step },
    timeout: '10s',
  };
  for (let attempt = 1; ; attempt += 1) {
    const response =
      body === undefined
        ? http.get(baseUrl + path, { tags: params.tags, timeout: params.timeout })
        : http.post(baseUrl + path, JSON.stringify(body), params);
    const reply = bodyOf(response);
    const word = step === 'look' && response.status === 200 ? '' : String(reply.code ?? reply.status ?? '');
    const outcome = classify(step, response.status, word);
    if (outcome === 'errors') {
      console.error(`${step}: unexpected ${response.status} ${word}: ${response.body}`);
    }
    if (outcome !== 'busy') return { outcome, body: reply };
    const waitMs = backoffMs(attempt);
    if (waitMs === undefined) return { outcome: 'gaveUp', body: reply };
    retried.add(1);
    sleep(waitMs / 1000);
  }
}

/** An answer that ends the journey; one that should have led on is an error. */
function endOf(outcome: Answer['outcome']): End {
  return outcome === 'looked' || outcome === 'durable' || outcome === 'accepted' ? 'errors' : outcome;
}

function journey(run: string, scenario: string, n: number): End {
  const item = `skuId=${encodeURIComponent(skuId)}&locationId=${encodeURIComponent(locationId)}`;
  const look = ask('look', `/api/inventory?${item}`, '');
  // Whatever number the page shows, the buyer tries: it may be seconds old.
  if (look.outcome !== 'looked') return endOf(look.outcome);

  const orderId = `${run}-${scenario}-${n}`;
  const userId = userOf(run, scenario, n, users);
  const started = Date.now();
  const reserve = ask('reserve', '/api/inventory/reservations', `${orderId}:reserve`, {
    orderId,
    skuId,
    locationId,
    quantity,
    userId,
  });
  reserveTime.add(Date.now() - started);
  if (reserve.outcome !== 'durable' && reserve.outcome !== 'accepted') return endOf(reserve.outcome);
  const id = reserve.body.reservationId;
  if (typeof id !== 'string') {
    console.error(`reserve: no reservationId in ${JSON.stringify(reserve.body)}`);
    return 'errors';
  }
  reserved.add(1);
  if (reserve.outcome === 'durable') durable.add(1);

  const path = `/api/inventory/reservations/${encodeURIComponent(id)}`;
  switch (endingOf(seed, n, shares)) {
    case 'commit':
      return endOf(ask('commit', `${path}/commit`, `${orderId}:commit`, { paymentId: `pay-${orderId}` }).outcome);
    case 'release':
      return endOf(ask('release', `${path}/release`, `${orderId}:release`, { reason: 'changed_mind' }).outcome);
    case 'walk':
      return 'walkedAway';
  }
}

/** The sale as its admin sees it; nothing where no admin listener was named. */
function sale(): Body | undefined {
  if (adminUrl === '') return undefined;
  const response = http.get(`${adminUrl}/admin/sales/${encodeURIComponent(saleId)}`, { timeout: '10s' });
  check(response, { 'the sale is known': (r) => r.status === 200 });
  const body = bodyOf(response);
  console.log(`sale ${saleId}: ${body.state}, ${body.remaining} of ${body.allocation} left, counts ${JSON.stringify(body.counts)}`);
  return body;
}

/** Proves that there is something to buy before any load is made. */
export function setup(): Run {
  const item = `skuId=${encodeURIComponent(skuId)}&locationId=${encodeURIComponent(locationId)}`;
  const response = http.get(`${baseUrl}/api/inventory?${item}`, { timeout: '10s' });
  if (!check(response, { 'the item is known': (r) => r.status === 200 })) {
    throw new Error(`GET /api/inventory?${item}: ${response.status} ${response.error} ${response.body}`);
  }
  const before = sale();
  if (before !== undefined && before.state !== 'live') throw new Error(`sale ${saleId} is not live`);
  // Order ids and keys differ from those of every other run, so nothing is replayed by accident.
  return { run: text('RUN_ID', `k6-${Date.now().toString(36)}`) };
}

/** One buyer. */
export default function buyer(data: Run): void {
  const end = journey(data.run, exec.scenario.name, exec.scenario.iterationInTest);
  ends[end].add(1);
  failed.add(end === 'gaveUp' || end === 'errors');
}

/** Looks at the sale once more, and says what is still to be proved. */
export function teardown(): void {
  const after = sale();
  if (after !== undefined) check(after, { 'the sale has no drift': (body) => body.drift === 0 });
  console.log('The answers are counted. Whether the ledger agrees: flashgate verify (loadtest/k6/run.sh runs it).');
}
