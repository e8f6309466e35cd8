// run.mjs as its callers use it: a child process, a real HTTP server, the exit
// code and the last line.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';

/** @type {{ method?: string, path?: string, key?: string, body: string }[]} */
let heard = [];
const server = createServer(async (request, response) => {
  const { method, url: path, headers } = request;
  const key = /** @type {string | undefined} */ (headers['idempotency-key']);
  heard.push({ method, path, key, body: await text(request) });
  // Silence, for the timeout.
  if (path === '/silent') return;
  response.writeHead(path === '/tell' ? 409 : 200, { 'content-type': 'application/json', 'retry-after': '1' });
  response.end(JSON.stringify({ key }));
});
let url = '';

before(async () => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = /** @type {import('node:net').AddressInfo} */ (server.address());
  url = `http://127.0.0.1:${address.port}`;
});
after(() => {
  server.close();
  server.closeAllConnections();
});

/**
 * @param {string} script
 * @param {string[]} args
 * @param {Record<string, string>} env
 */
async function run(script, args, env) {
  heard = [];
  const file = (/** @type {string} */ name) => fileURLToPath(new URL(name, import.meta.url));
  const child = spawn(process.execPath, [file('../run.mjs'), '--script', file(`scripts/${script}`), ...args], {
    env: { ...process.env, ...env },
  });
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  return { code, stdout, stderr, last: stdout.trimEnd().split('\n').at(-1) ?? '' };
}

test('setup, the shared iterations and teardown run in order, and the summary comes last', async () => {
  const { code, stdout, stderr, last } = await run('story.mjs', ['--iterations', '12', '--vus', '3'], {
    SERVER: url,
    WORD: 'hello',
  });
  assert.equal(code, 0, stdout + stderr);
  assert.deepEqual(JSON.parse(last), { iterations: 12, told: 12 });
  assert.match(stderr, /the story is told/);
  assert.deepEqual([heard.at(0)?.path, heard.at(-1)?.path], ['/setup', '/teardown?word=hello']);
  const tales = heard.slice(1, -1);
  const bodies = tales.map(({ body }) => JSON.parse(body));
  // Each iteration once, by whichever VU; setup's data as JSON hands it over.
  assert.deepEqual(bodies.map(({ n }) => n).sort((a, b) => a - b), [...Array(12).keys()]);
  assert.deepEqual([...new Set(bodies.map(({ vu }) => vu))].sort(), [1, 2, 3]);
  assert.ok(bodies.every(({ word }) => word === 'hello'));
  assert.ok(tales.every(({ method, key }, i) => method === 'POST' && key === `story:${bodies[i].n}`));
});

test('a threshold that does not hold is exit 1, named', async () => {
  const { code, stdout, last } = await run('story.mjs', ['--iterations', '4', '--vus', '1'], { SERVER: url, WORD: 'x' });
  assert.equal(code, 1);
  assert.match(stdout, /FAIL told: count==12 \(4\)/);
  assert.deepEqual(JSON.parse(last), { iterations: 4, told: 4 });
});

test('no answer in time is status 0, not an exception', async () => {
  const { code, stdout, last } = await run('failing.mjs', ['--iterations', '2', '--vus', '2'], { SERVER: `${url}/silent` });
  assert.equal(code, 1);
  assert.match(stdout, /FAIL checks: rate==1 \(0\)/);
  assert.deepEqual(JSON.parse(last), { iterations: 2, answers: 2 });
});

test('a refused connection is status 0, not an exception', async () => {
  const refused = createServer().listen(0, '127.0.0.1');
  await once(refused, 'listening');
  const { port } = /** @type {import('node:net').AddressInfo} */ (refused.address());
  refused.close();
  await once(refused, 'close');
  const { code, last } = await run('failing.mjs', ['--iterations', '2', '--vus', '1'], { SERVER: `http://127.0.0.1:${port}` });
  assert.equal(code, 1);
  assert.deepEqual(JSON.parse(last), { iterations: 2, answers: 2 });
});

test('an iteration that throws is exit 1, and the others go on', async () => {
  const { code, stdout, stderr } = await run('failing.mjs', ['--iterations', '5', '--vus', '2'], { SERVER: url, FAIL: 'exception' });
  assert.equal(code, 1);
  assert.match(stdout, /FAIL 5 iterations threw/);
  assert.match(stderr, /an iteration threw/);
});

test('a setup that throws is exit 2, and no buyer comes', async () => {
  const { code, stderr } = await run('failing.mjs', ['--iterations', '5', '--vus', '2'], { SERVER: url, FAIL: 'setup' });
  assert.equal(code, 2);
  assert.match(stderr, /nothing to buy/);
  assert.deepEqual(heard, []);
});

test('wrong arguments are named', async () => {
  assert.match((await run('story.mjs', ['--vus', '65'], {})).stderr, /--vus: 1 to 64, got "65"/);
  assert.match((await run('story.mjs', ['--iterations', 'many'], {})).stderr, /--iterations: 1 to/);
  assert.match((await run('absent.ts', [], {})).stderr, /there is no script/);
});
