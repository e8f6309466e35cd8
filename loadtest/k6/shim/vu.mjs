// One VU: a thread with its own copy of the script, as each k6 VU has its own
// JavaScript machine. It does what the main thread tells it, one order at a time.
import { Console } from 'node:console';
import { writeSync } from 'node:fs';
import { Writable } from 'node:stream';
import { parentPort, workerData } from 'node:worker_threads';
import { callAndWait } from './bridge.mjs';
import { install } from './hooks.mjs';
import { context } from './modules/context.mjs';

/**
 * @typedef {{ kind: 'setup' } | { kind: 'iterate', data: unknown } | { kind: 'teardown', data: unknown }} Order
 */

const { url, env, vu, port, flag, next, iterations } = workerData;
if (parentPort === null) throw new Error('vu.mjs is started by run.mjs, as a thread');
const main = parentPort;

// The script's words go to stderr, as k6's do: stdout is the summary's. At once,
// because a thread's own stderr is lost with what the thread has not flushed.
const stderr = new Writable({
  write: (chunk, _encoding, done) => {
    writeSync(2, chunk);
    done();
  },
});
globalThis.console = new Console(stderr, stderr);
Object.assign(globalThis, { __ENV: env, __VU: vu });
context.place.vu = vu;
install();
const script = await import(url);
context.call = (request) => callAndWait(port, new Int32Array(flag), request);

/** Runs the default function until the iterations of the whole test are used up. @param {unknown} data */
function iterate(data) {
  const counter = new Int32Array(next);
  let exceptions = 0;
  for (let n = Atomics.add(counter, 0, 1); n < iterations; n = Atomics.add(counter, 0, 1)) {
    context.place = { scenario: 'default', iteration: n, vu };
    const started = performance.now();
    try {
      script.default(structuredClone(data));
    } catch (error) {
      exceptions += 1;
      console.error(`iteration ${n}:`, error);
    }
    context.recorder.add('iteration_duration', performance.now() - started);
    context.recorder.add('iterations', 1);
  }
  return exceptions;
}

/** @param {Order} order */
function obey(order) {
  switch (order.kind) {
    case 'setup':
      return { data: script.setup?.(), options: script.options ?? {} };
    case 'iterate':
      return { exceptions: iterate(order.data) };
    case 'teardown':
      script.teardown?.(order.data);
      return {};
  }
}

main.on('message', (/** @type {Order} */ order) => {
  try {
    const done = obey(order);
    // Through JSON, as k6 hands over what setup returns.
    main.postMessage({ ...JSON.parse(JSON.stringify(done)), taken: context.recorder.take() });
  } catch (error) {
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error);
    main.postMessage({ error: reason, taken: context.recorder.take() });
  }
});
main.postMessage({ taken: context.recorder.take() });
