// Makes a TypeScript script importable. A Node that strips types (22.18 and
// later) imports it as it is; an older one gets it compiled by the project's
// own tsc into a temporary directory.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = fileURLToPath(new URL('../', import.meta.url));

/**
 * @param {string} script  path of a .ts, .js or .mjs file
 * @returns {{ url: string, dispose: () => void }}  what to import, and how to clean up
 */
export function importable(script) {
  const source = path.resolve(script);
  if (!existsSync(source)) throw new Error(`there is no script ${source}`);
  const strips = /** @type {{ typescript?: string | false }} */ (process.features).typescript;
  if (!source.endsWith('.ts') || strips) return { url: pathToFileURL(source).href, dispose: () => {} };
  return compiled(source);
}

/** @param {string} source */
function compiled(source) {
  const tsc = path.join(root, 'node_modules', '.bin', 'tsc');
  if (!existsSync(tsc)) {
    throw new Error(`Node ${process.version} does not strip types: run npm ci in ${root}, or use Node 22.18 or later`);
  }
  const relative = path.relative(root, source);
  if (relative.startsWith('..')) throw new Error(`${source} is not under ${root}, whose tsconfig.json compiles it`);
  const out = mkdtempSync(path.join(tmpdir(), 'flashgate-k6-'));
  const dispose = () => rmSync(out, { recursive: true, force: true });
  try {
    execFileSync(tsc, ['-p', path.join(root, 'tsconfig.json'), '--outDir', out], { stdio: ['ignore', 2, 2] });
    writeFileSync(path.join(out, 'package.json'), '{"type":"module"}');
  } catch (error) {
    dispose();
    throw error;
  }
  return { url: pathToFileURL(path.join(out, relative.replace(/\.ts$/, '.js'))).href, dispose };
}
