// Who the buyers are and how each of them ends. Pure: the same seed gives the
// same buyers on every machine, here and in the goose program (src/plan.rs);
// ../vectors.json holds both to it.

/** What a buyer does with a reservation. */
export type Ending = 'commit' | 'release' | 'walk';

/** How many of every `commit + release + walk` buyers end which way. */
export interface Shares {
  commit: number;
  release: number;
  walk: number;
}

/** Parses `commit/release/walk`, whole numbers such as `60/20/20`. */
export function parseShares(text: string): Shares {
  const parts = text.split('/').map((part) => (/^\d{1,6}$/.test(part) ? Number(part) : NaN));
  const [commit, release, walk] = parts;
  if (parts.length !== 3 || commit === undefined || release === undefined || walk === undefined) {
    throw new Error(`SHARES: expected commit/release/walk such as 60/20/20, got "${text}"`);
  }
  if (!(commit + release + walk > 0)) {
    throw new Error(`SHARES: whole numbers with a sum above 0, got "${text}"`);
  }
  return { commit, release, walk };
}

/**
 * An even 32-bit number for buyer `n` under `seed`: MurmurHash3's finalizer over
 * a golden-ratio walk. No state, so the order in which buyers arrive does not
 * change what any of them does.
 */
export function mix(seed: number, n: number): number {
  let x = (seed + Math.imul(n + 1, 0x9e3779b9)) >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** How buyer `n` ends. */
export function endingOf(seed: number, n: number, shares: Shares): Ending {
  const draw = mix(seed, n) % (shares.commit + shares.release + shares.walk);
  if (draw < shares.commit) return 'commit';
  return draw < shares.commit + shares.release ? 'release' : 'walk';
}

/** Buyer `n`'s user id: with `users` above 0 that many people take turns, else each buyer is another. */
export function userOf(run: string, scenario: string, n: number, users: number): string {
  return users > 0 ? `${run}-u${n % users}` : `${run}-${scenario}-u${n}`;
}
