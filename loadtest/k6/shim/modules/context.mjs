// What the k6 modules of one VU share: its recorder, its way to the network and
// where in the run it is.
import { Recorder } from '../samples.mjs';

/**
 * @typedef {object} Context
 * @property {Recorder} recorder
 * @property {(request: import('../bridge.mjs').HttpRequest) => import('../bridge.mjs').HttpReply} call
 * @property {{ scenario: string, iteration: number, vu: number }} place
 */

/** @type {Context} */
export const context = {
  recorder: new Recorder(),
  call: () => {
    throw new Error('no request can be made while the script is loaded');
  },
  place: { scenario: '', iteration: -1, vu: 0 },
};
