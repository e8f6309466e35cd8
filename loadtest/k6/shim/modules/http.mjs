// `k6/http`: get, post and request with headers, tags and a timeout; expected
// statuses. Synchronous, as in k6.
import { context } from './context.mjs';

/**
 * @typedef {object} Params
 * @property {Record<string, string>} [headers]
 * @property {Record<string, string>} [tags]
 * @property {string | number} [timeout]
 *
 * @typedef {(number | { min: number, max: number })[]} Expected
 */

/** k6's default. @type {Expected} */
let expected = [{ min: 200, max: 399 }];

/** @param {Expected} statuses */
export function expectedStatuses(...statuses) {
  return statuses;
}

/** @param {Expected} statuses */
export function setResponseCallback(statuses) {
  expected = statuses;
}

/**
 * @param {string} method
 * @param {string} url
 * @param {string | null} [body]
 * @param {Params} [params]
 */
export function request(method, url, body = null, params = {}) {
  const { headers = {}, tags = {}, timeout = '60s', ...unknown } = params;
  for (const name of Object.keys(unknown)) throw new Error(`the shim does not know the parameter ${name}`);
  const reply = context.call({ method, url, headers, body, timeoutMs: milliseconds(timeout) });
  const all = { method, status: String(reply.status), name: url, ...tags };
  context.recorder.add('http_reqs', 1, all);
  context.recorder.add('http_req_duration', reply.durationMs, all);
  context.recorder.add('http_req_failed', !isExpected(reply.status), all);
  return {
    url,
    status: reply.status,
    body: reply.body,
    headers: reply.headers,
    error: reply.error,
    timings: { duration: reply.durationMs },
    json: () => JSON.parse(reply.body ?? ''),
  };
}

/**
 * @param {string} url
 * @param {Params} [params]
 */
export function get(url, params) {
  return request('GET', url, null, params);
}

/**
 * @param {string} url
 * @param {string | null} [body]
 * @param {Params} [params]
 */
export function post(url, body, params) {
  return request('POST', url, body, params);
}

/** @param {number} status */
function isExpected(status) {
  return expected.some((one) =>
    typeof one === 'number' ? one === status : one.min <= status && status <= one.max,
  );
}

/** k6 takes milliseconds, or a number with a unit. @param {string | number} duration */
function milliseconds(duration) {
  if (typeof duration === 'number') return duration;
  const match = /^(\d+(?:\.\d+)?)(ms|s|m)$/.exec(duration);
  if (match === null) throw new Error(`timeout: expected a duration such as 10s, got "${duration}"`);
  return Number(match[1]) * { ms: 1, s: 1000, m: 60_000 }[/** @type {'ms' | 's' | 'm'} */ (match[2])];
}

export default { expectedStatuses, get, post, request, setResponseCallback };
