// A blocking call from a VU's thread to the main thread. k6's http is
// synchronous and Node's is not: the VU posts its request, sleeps on a shared
// flag, and takes the reply off the port once the main thread has raised it.
import { receiveMessageOnPort } from 'node:worker_threads';

/**
 * @typedef {object} HttpRequest
 * @property {string} method
 * @property {string} url
 * @property {Record<string, string>} headers
 * @property {string | null} body
 * @property {number} timeoutMs
 *
 * @typedef {object} HttpReply  Status 0 and an `error` where there was no answer.
 * @property {number} status
 * @property {string | null} body
 * @property {Record<string, string>} headers
 * @property {string} error
 * @property {number} durationMs
 */

/**
 * The VU's end: sends `request` and blocks until it is answered.
 *
 * @param {import('node:worker_threads').MessagePort} port
 * @param {Int32Array} flag  one shared word, 0 while waiting
 * @param {HttpRequest} request
 * @returns {HttpReply}
 */
export function callAndWait(port, flag, request) {
  Atomics.store(flag, 0, 0);
  port.postMessage(request);
  Atomics.wait(flag, 0, 0);
  const reply = receiveMessageOnPort(port);
  if (reply === undefined) throw new Error('the main thread raised the flag without a reply');
  return reply.message;
}

/**
 * The main thread's end: answers every request on `port` with what `serve` says.
 *
 * @param {import('node:worker_threads').MessagePort} port
 * @param {Int32Array} flag
 * @param {(request: HttpRequest) => Promise<HttpReply>} serve  never rejects
 */
export function answerCalls(port, flag, serve) {
  port.on('message', async (request) => {
    const reply = await serve(request);
    // The reply is on the port before the sleeper wakes.
    port.postMessage(reply);
    Atomics.store(flag, 0, 1);
    Atomics.notify(flag, 0);
  });
}
