// Resolves `k6`, `k6/http`, `k6/metrics` and `k6/execution` to the shim's
// modules. Any other `k6/…` is refused by name.
import module from 'node:module';

const shimmed = new Map([
  ['k6', 'k6.mjs'],
  ['k6/http', 'http.mjs'],
  ['k6/metrics', 'metrics.mjs'],
  ['k6/execution', 'execution.mjs'],
]);

/**
 * @param {string} specifier
 * @param {any} context
 * @param {(specifier: string, context: any) => any} nextResolve
 */
export function resolve(specifier, context, nextResolve) {
  const file = shimmed.get(specifier);
  if (file !== undefined) return { url: new URL(`modules/${file}`, import.meta.url).href, shortCircuit: true };
  if (specifier === 'k6' || specifier.startsWith('k6/')) throw new Error(`the shim has no ${specifier}`);
  return nextResolve(specifier, context);
}

/** Installs the hook in this thread. */
export function install() {
  // Node 22.15 and later resolve in this thread; older ones start a thread for it.
  const hooks = /** @type {{ registerHooks?: (hooks: object) => void }} */ (/** @type {unknown} */ (module));
  if (hooks.registerHooks !== undefined) hooks.registerHooks({ resolve });
  else module.register(import.meta.url);
}
