// What an answer means to the buyer. Everything the contract foresees is a
// word; whatever it does not foresee is `errors`, and one of those fails the run.
import { mayRetry } from './retry.ts';

/** The calls of the journey. */
export type Step = 'look' | 'reserve' | 'commit' | 'release';

/** What one answer means. `busy` may be asked again. */
export type Outcome =
  | 'looked'
  | 'durable'
  | 'accepted'
  | 'committed'
  | 'released'
  | 'soldOut'
  | 'limited'
  | 'notLive'
  | 'expired'
  | 'rejected'
  | 'busy'
  | 'errors';

const foreseen: Record<Step, Record<string, Outcome>> = {
  look: { '200': 'looked' },
  reserve: {
    '201 RESERVED': 'durable',
    '202 RESERVED': 'accepted',
    // A replay under the same key, after the reservation has ended.
    '200 EXPIRED': 'expired',
    '200 REJECTED': 'rejected',
    '409 INSUFFICIENT_STOCK': 'soldOut',
    '409 USER_LIMIT_EXCEEDED': 'limited',
    '409 SALE_NOT_LIVE': 'notLive',
  },
  commit: {
    '200 COMMITTED': 'committed',
    '409 RESERVATION_EXPIRED': 'expired',
    '409 RESERVATION_REJECTED': 'rejected',
    '409 SALE_FROZEN': 'notLive',
  },
  release: {
    '200 RELEASED': 'released',
    '200 EXPIRED': 'expired',
    '409 RESERVATION_REJECTED': 'rejected',
  },
};

/**
 * The outcome of `step` for an HTTP status (0: no answer) and the word in the
 * body: a problem's `code`, a reservation's `status`, nothing for an item.
 */
export function classify(step: Step, status: number, word: string): Outcome {
  if (mayRetry(status)) return 'busy';
  return foreseen[step][word === '' ? `${status}` : `${status} ${word}`] ?? 'errors';
}
