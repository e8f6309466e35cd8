// Drives a script as `k6 run --iterations N --vus V` does: `setup` once, the
// default function N times shared by V threads, `teardown` once, then the
// thresholds. The scenarios in the script's options are k6's to run: the shim
// has no executors.
import { MessageChannel, Worker } from 'node:worker_threads';
import { answerCalls } from './bridge.mjs';
import { importable } from './compile.mjs';
import { Metrics } from './samples.mjs';
import { send } from './send.mjs';
import { judge } from './thresholds.mjs';

/**
 * @typedef {object} Settings
 * @property {string} script
 * @property {number} iterations
 * @property {number} vus
 * @property {Record<string, string | undefined>} env
 *
 * @typedef {object} Report
 * @property {Metrics} metrics
 * @property {import('./thresholds.mjs').Verdict[]} verdicts
 * @property {number} exceptions  iterations that threw
 */

/** A VU's thread, and the orders given to it. */
class Vu {
  /**
   * @param {object} given  the thread's workerData, but for its own port and flag
   * @param {Metrics} metrics
   */
  constructor(given, metrics) {
    const { port1, port2 } = new MessageChannel();
    const flag = new SharedArrayBuffer(4);
    this.metrics = metrics;
    this.port = port1;
    this.thread = new Worker(new URL('vu.mjs', import.meta.url), {
      workerData: { ...given, port: port2, flag },
      transferList: [port2],
    });
    answerCalls(port1, new Int32Array(flag), send);
    this.loaded = this.reply();
  }

  /** @returns {Promise<any>} the next word from the thread; its failure is ours */
  reply() {
    return new Promise((resolve, reject) => {
      const onMessage = (/** @type {any} */ { error, taken, ...done }) => {
        this.metrics.absorb(taken);
        settle(() => (error === undefined ? resolve(done) : reject(new Error(error))));
      };
      const onError = (/** @type {Error} */ error) => settle(() => reject(error));
      const onExit = () => settle(() => reject(new Error('a VU ended before its work was done')));
      const settle = (/** @type {() => void} */ act) => {
        this.thread.off('message', onMessage).off('error', onError).off('exit', onExit);
        act();
      };
      this.thread.on('message', onMessage).on('error', onError).on('exit', onExit);
    });
  }

  /** @param {import('./vu.mjs').Order} order */
  order(order) {
    const reply = this.reply();
    this.thread.postMessage(order);
    return reply;
  }

  /** Stops the thread, whatever it was doing. */
  async end() {
    await this.thread.terminate();
    this.port.close();
  }
}

/**
 * @param {Settings} settings
 * @returns {Promise<Report>}  rejects where the script, its setup or its teardown fails
 */
export async function run({ script, iterations, vus, env }) {
  const { url, dispose } = importable(script);
  const metrics = new Metrics();
  const next = new SharedArrayBuffer(4);
  const given = { url, env: { ...env }, next, iterations };
  const threads = Array.from({ length: vus + 1 }, (_, vu) => new Vu({ ...given, vu }, metrics));
  try {
    await Promise.all(threads.map((vu) => vu.loaded));
    const [first, ...buyers] = /** @type {[Vu, ...Vu[]]} */ (threads);
    const { data, options } = await first.order({ kind: 'setup' });
    const done = await Promise.all(buyers.map((vu) => vu.order({ kind: 'iterate', data })));
    await first.order({ kind: 'teardown', data });
    const exceptions = done.reduce((total, { exceptions }) => total + exceptions, 0);
    return { metrics, verdicts: judge(metrics, options.thresholds ?? {}), exceptions };
  } finally {
    await Promise.all(threads.map((vu) => vu.end()));
    dispose();
  }
}
