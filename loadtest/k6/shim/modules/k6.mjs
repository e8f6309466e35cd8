// `k6`: check and sleep.
import { context } from './context.mjs';

const never = new Int32Array(new SharedArrayBuffer(4));

/**
 * Runs each check on `value`, records it, and says whether all passed.
 *
 * @template T
 * @param {T} value
 * @param {Record<string, (value: T) => boolean>} checks
 * @param {Record<string, string>} [tags]
 * @returns {boolean}
 */
export function check(value, checks, tags = {}) {
  const passed = Object.entries(checks).map(([name, test]) => {
    const ok = Boolean(test(value));
    context.recorder.add('checks', ok, { ...tags, check: name });
    if (!ok) console.error(`check failed: ${name}`);
    return ok;
  });
  return passed.every(Boolean);
}

/**
 * Blocks this VU, and only it.
 *
 * @param {number} seconds
 */
export function sleep(seconds) {
  Atomics.wait(never, 0, 0, seconds * 1000);
}

export default { check, sleep };
