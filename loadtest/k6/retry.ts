// How a good client retries: three attempts with the same key, waiting
// attempt x 300 ms between them, and only where the answer says "not now".

/** Attempts for one step, the first included. */
export const ATTEMPTS_MAX = 3;

/** The wait after the first attempt; the second waits twice as long. */
export const BACKOFF_MS = 300;

/** Whether to ask again: no answer at all (0 in k6), 429 or 503. */
export function mayRetry(status: number): boolean {
  return status === 0 || status === 429 || status === 503;
}

/** How long to wait after `attempt` (1, 2, …) failed; `undefined`: give up. */
export function backoffMs(attempt: number): number | undefined {
  return attempt < ATTEMPTS_MAX ? attempt * BACKOFF_MS : undefined;
}
