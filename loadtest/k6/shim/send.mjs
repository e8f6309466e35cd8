// Sends one request with Node's fetch. A request that gets no answer is a reply
// with status 0, as in k6, not an exception.

/**
 * @param {import('./bridge.mjs').HttpRequest} request
 * @returns {Promise<import('./bridge.mjs').HttpReply>}
 */
export async function send({ method, url, headers, body, timeoutMs }) {
  const started = performance.now();
  try {
    const response = await fetch(url, { method, headers, body, signal: AbortSignal.timeout(timeoutMs) });
    const text = await response.text();
    return {
      status: response.status,
      body: text,
      headers: Object.fromEntries([...response.headers].map(([name, value]) => [canonical(name), value])),
      error: '',
      durationMs: performance.now() - started,
    };
  } catch (error) {
    return { status: 0, body: null, headers: {}, error: reason(error), durationMs: performance.now() - started };
  }
}

/**
 * k6 spells header names as Go does: `retry-after` is `Retry-After`.
 *
 * @param {string} name
 */
function canonical(name) {
  return name.replace(/(^|-)([a-z])/g, (_, dash, letter) => dash + letter.toUpperCase());
}

/** @param {unknown} error */
function reason(error) {
  if (!(error instanceof Error)) return String(error);
  const cause = /** @type {{ code?: string, message?: string } | undefined} */ (error.cause);
  return cause?.code ?? cause?.message ?? error.message;
}
