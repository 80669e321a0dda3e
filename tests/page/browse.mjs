// What a person does with the page, in a real browser. See browse.sh. Prints TAP.
//   node browse.mjs PROGRAM MODEL_DIR PACKAGES
import assert from 'node:assert/strict';
import {execFile, spawn} from 'node:child_process';
import {cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {pathToFileURL} from 'node:url';
import {promisify} from 'node:util';

const [program, demo, packages] = process.argv.slice(2);
const requireFrom = createRequire(join(packages, 'package.json'));
const {chromium} = requireFrom('playwright-core');
const axe = readFileSync(requireFrom.resolve('axe-core/axe.min.js'), 'utf8');
const folder = mkdtempSync(join(tmpdir(), 'flashblock-page-'));
const PROMPT = 'And it came to pass in those days, that';
const HOSTILE = '</script><img src=x onerror="document.title=1"><b>it came</b> to pass';
const TOKENS = 40;
const DESKTOP = {viewport: {width: 1280, height: 900}};
const PHONE = {viewport: {width: 360, height: 740}, hasTouch: true};
const cases = [];
const complaints = []; // of consoles, and requests that go elsewhere

function test(name, body) {
  cases.push({name, body});
}

// --- what is driven

async function startServer(directory, ...options) {
  const child = spawn(program, ['serve', '--model', directory, '--port', '0', ...options], {stdio: ['ignore', 'pipe', 'inherit']});
  const port = await new Promise((resolve, reject) => {
    child.stdout.on('data', (data) => {
      const found = /:(\d+)\/v1/.exec(String(data));
      if (found) resolve(found[1]);
    });
    child.on('exit', () => reject(new Error('the server ended')));
  });
  return {url: `http://127.0.0.1:${port}/`, stop: () => child.kill('SIGKILL')};
}

async function openPage(options, url, expected = []) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(60000);
  const page = await context.newPage();
  const complain = (text) => {
    if (!expected.some((pattern) => pattern.test(text))) complaints.push(text);
  };
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && complain(message.text()));
  page.on('pageerror', (error) => complain(error.stack));
  page.on('request', (request) => {
    const there = request.url();
    if (!there.startsWith(new URL('.', url).href) && !there.startsWith('data:')) complain(`asks for ${there}`);
  });
  await page.goto(url);
  return page;
}

const pane = (page, title) => page.locator('.pane').filter({has: page.getByRole('heading', {name: title, exact: true})});
const tau = (page, title, value) => pane(page, title).getByRole('radio', {name: value, exact: true});
const plain = (page, title) => pane(page, title).locator('.plain').textContent();

async function write(page, prompt, tokens) {
  await page.getByRole('textbox', {name: 'Prompt'}).fill(prompt);
  await page.getByLabel('Tokens', {exact: true}).fill(String(tokens));
  await page.getByRole('button', {name: 'Write'}).click();
  await written(page, 'A');
}

async function written(page, title) {
  await pane(page, title).getByText(/^The whole text/).waitFor();
  await page.getByRole('button', {name: 'To the end'}).click();
}

async function chooseTau(page, title, value) {
  await tau(page, title, value).check({force: true});
  await pane(page, title).getByText(/^The whole text/).waitFor();
}

async function scrollWidth(page) {
  return page.evaluate(() => document.documentElement.scrollWidth);
}

async function shoot(page, name) {
  await page.screenshot({path: join(packages, 'screenshots', `${name}.png`), fullPage: true});
}

// Rules of WCAG 2.2, levels A and AA, that a program can check.
async function checkAccessibility(page) {
  await page.evaluate(axe);
  const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'];
  const {violations} = await page.evaluate((values) => window.axe.run(document, {runOnly: {type: 'tag', values}}), tags);
  const found = violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${node.target} ${node.failureSummary}`));
  assert.deepEqual(found, []);
}

async function completion(fields) {
  const body = JSON.stringify({prompt: PROMPT, max_tokens: TOKENS, ...fields});
  const response = await fetch(`${server.url}v1/completions`, {method: 'POST', body});
  return (await response.json()).choices[0].text;
}

// --- the page of the server

test('a prompt is written, block by block, and the text is the one of other clients', async () => {
  const page = await openPage(DESKTOP, server.url);
  await write(page, PROMPT, TOKENS);
  assert.equal(await plain(page, 'A'), `Text A: ${await completion({flashblock: {tau: 2}})}`);
  assert.equal(await page.locator('.pane .token.mask:visible').count(), 0);
  assert.match(await page.locator('#where').textContent(), /^pass (\d+) of \1$/);
  assert.ok(await pane(page, 'A').locator('.cell.reuse').count());
  assert.ok(await pane(page, 'A').locator('.cell.refresh').count());
  await shoot(page, 'one-text');
  await page.context().close();
});

test('another tau writes the same prompt beside it', async () => {
  const page = await openPage(DESKTOP, server.url);
  await write(page, PROMPT, TOKENS);
  await chooseTau(page, 'B', '0 dense');
  await page.getByRole('button', {name: 'To the end'}).click();
  assert.equal(await plain(page, 'B'), `Text B: ${await completion({flashblock: {tau: 0}})}`);
  assert.equal(await pane(page, 'B').locator('.cell.reuse').count(), 0);
  assert.match(await page.locator('#comparison').textContent(), /^A and B (differ at \d+ of|are the same at all) \d+ positions/);
  assert.match(await pane(page, 'B').locator('.share').textContent(), /^100 %/);
  const [a, b] = [await pane(page, 'A').boundingBox(), await pane(page, 'B').boundingBox()];
  assert.ok(a.y === b.y && a.x + a.width <= b.x, 'side by side');
  await chooseTau(page, 'A', '4');
  await page.getByRole('button', {name: 'To the end'}).click();
  assert.equal(await plain(page, 'A'), `Text A: ${await completion({flashblock: {tau: 4}})}`);
  await shoot(page, 'two-texts');
  await tau(page, 'B', 'none').check({force: true});
  assert.ok(await pane(page, 'B').locator('.empty').isVisible());
  await page.context().close();
});

test('keys go from pass to pass and from token to token; labels say what is there', async () => {
  const page = await openPage(DESKTOP, server.url);
  await page.getByLabel('Block', {exact: true}).fill('8');
  await write(page, PROMPT, TOKENS);
  await page.locator('h1').click();
  await page.keyboard.press('Home');
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('ArrowRight');
  await page.getByText(/^pass 2 of/).waitFor();
  await page.getByRole('button', {name: 'One pass on'}).click();
  await page.keyboard.press('ArrowLeft'); // a button leaves it to the page
  await page.getByText(/^pass 2 of/).waitFor();
  assert.ok(await page.locator('.pane .token.mask:visible').count());
  assert.match(await page.locator('.pane .token.mask:visible').first().getAttribute('aria-label'), /^mask, proposal .*, confidence \d+ %$/);
  await shoot(page, 'second-pass');
  await page.keyboard.press('End');
  const tokens = pane(page, 'A').getByRole('option');
  await tokens.first().focus();
  for (let i = 0; i < 8; i++) await page.keyboard.press('ArrowRight');
  const ninth = tokens.nth(8);
  assert.equal(await ninth.getAttribute('aria-selected'), 'true');
  assert.match(await ninth.getAttribute('aria-label'), /, accepted at step \d+ of block \d+, confidence \d+ %$/);
  assert.match(await pane(page, 'A').locator('.detail').textContent(), /^Position \d+: .*Proposed for this position:step 0/);
  assert.match(await page.getByRole('img', {name: /^Passes, a row for each block: \d+ refreshed, \d+ reused, \d+ commits$/}).getAttribute('class'), /grid/);
  await page.context().close();
});

test('nothing scrolls sideways at 360 pixels, and a stop ends the text', async () => {
  const page = await openPage(PHONE, server.url);
  await write(page, PROMPT, TOKENS);
  await chooseTau(page, 'B', '0 dense');
  assert.equal(await scrollWidth(page), 360);
  await shoot(page, 'phone');
  await page.getByLabel('Tokens', {exact: true}).fill('4000');
  await page.getByRole('button', {name: 'Write'}).click();
  await page.getByRole('button', {name: 'Stop'}).click();
  await pane(page, 'A').getByText(/not finished/).waitFor();
  await page.context().close();
});

test('light and dark, with contrast and labels as WCAG has them', async () => {
  for (const colorScheme of ['light', 'dark']) {
    const page = await openPage({...DESKTOP, colorScheme, reducedMotion: 'reduce'}, server.url);
    const paper = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const before = await paper();
    assert.equal(await page.getByRole('button', {name: 'Dark'}).getAttribute('aria-pressed'), String(colorScheme === 'dark'));
    await write(page, PROMPT, TOKENS);
    await chooseTau(page, 'B', '0 dense');
    await page.getByRole('button', {name: 'To the end'}).click();
    await checkAccessibility(page);
    await shoot(page, colorScheme);
    await page.getByRole('button', {name: 'Dark'}).click();
    assert.notEqual(await paper(), before);
    await page.context().close();
  }
});

test('what is wrong is said in words; a key is asked for where the server has one; a model that has a chat answers', async () => {
  const page = await openPage(DESKTOP, server.url, [/status of 400/]);
  await write(page, 'word '.repeat(20000), TOKENS);
  assert.match(await page.getByRole('alert').textContent(), /^The server says: .*\.$/);
  await page.context().close();
  writeFileSync(join(folder, 'key'), 'open sesame\n');
  const locked = await startServer(chatModel, '--api-key-file', join(folder, 'key'));
  const other = await openPage(DESKTOP, locked.url, [/status of 401/]);
  await other.getByLabel('Key of this server').fill('open sesame');
  await other.getByLabel('Key of this server').press('Tab');
  await other.getByText('8 layers').waitFor();
  assert.ok(await other.getByLabel('as a turn of a chat').isChecked());
  const asked = other.waitForRequest((request) => request.url().endsWith('/v1/chat/completions'));
  await write(other, PROMPT, TOKENS);
  assert.equal((await asked).postDataJSON().messages[0].content, PROMPT);
  assert.ok((await plain(other, 'A')).length > 20);
  await other.context().close();
  locked.stop();
});

test('the page allows its own scripts and styles only', async () => {
  const response = await fetch(server.url);
  const policy = response.headers.get('content-security-policy');
  assert.match(policy, /^default-src 'none'; style-src 'sha256-[^']+'; script-src 'sha256-[^']+'; img-src data:; connect-src 'self';/);
  assert.match(policy, /frame-ancestors 'none'$/);
  assert.doesNotMatch(await response.text(), /(src|href)="(?!#|data:)|unsafe-inline|innerHTML/);
});

// --- the page of a trace

async function trace(name, ...options) {
  const path = join(folder, name);
  await promisify(execFile)(program, ['trace', '--model', model, '-n', String(TOKENS), '--html', path, ...options]);
  return pathToFileURL(path).href;
}

test('a trace shows its decodings and the heat of each head', async () => {
  const page = await openPage(DESKTOP, await trace('trace.html', '-p', PROMPT, '-p', 'Now these are the names', '--sweep', '0,4'));
  assert.equal(await page.locator('#recorded-prompt').textContent(), PROMPT);
  assert.equal(await plain(page, 'A'), `Text A: ${await completion({flashblock: {tau: 2}})}`);
  assert.equal(await plain(page, 'B'), `Text B: ${await completion({flashblock: {tau: 0}})}`);
  for (const name of ['external against internal mass', 'external similarity', 'internal similarity', 'error of reuse']) {
    await page.getByLabel('Heat').selectOption(name);
    assert.ok(await page.getByRole('img', {name: /of each layer and head/}).first().isVisible());
    await shoot(page, `trace-${name.replaceAll(' ', '-')}`);
  }
  await page.getByLabel('Heat').selectOption('external similarity');
  await page.locator('#seek').fill('30');
  await pane(page, 'A').locator('.token.fresh').click();
  await page.getByText(/^pass 30 of/).waitFor();
  const below = await page.locator('#legend').boundingBox();
  const clip = {x: 0, y: 0, width: DESKTOP.viewport.width, height: below.y};
  await page.screenshot({path: join(packages, 'screenshots', 'page.png'), fullPage: true, clip}); // that of docs/page.md
  await tau(page, 'B', '4').check({force: true});
  assert.equal(await plain(page, 'B'), `Text B: ${await completion({flashblock: {tau: 4}})}`);
  await page.getByRole('combobox', {name: 'Recorded prompt'}).selectOption('1');
  assert.equal(await page.locator('#recorded-prompt').textContent(), 'Now these are the names');
  await page.getByRole('button', {name: 'To the beginning'}).click();
  await page.getByRole('button', {name: 'Play'}).click();
  await page.getByText(/^pass ([3-9]|\d\d) of/).waitFor();
  await checkAccessibility(page);
  await page.setViewportSize(PHONE.viewport);
  assert.equal(await scrollWidth(page), 360);
  await shoot(page, 'trace-phone');
  await page.context().close();
});

test('edits are shown where the loop edits', async () => {
  const loop = ['--loop', 'llada2.1', '--editing-threshold', '0.3', '--confidence-threshold', '0.15', '-b', '16'];
  const page = await openPage(DESKTOP, await trace('edits.html', '-p', PROMPT, '--sweep', 'none', ...loop));
  assert.match(await page.locator('.pane .token.edited').first().getAttribute('aria-label'), /, edited at step \d+ of block \d+, confidence/);
  await page.context().close();
});

test('a hostile text is text', async () => {
  const page = await openPage(DESKTOP, await trace('hostile.html', '-p', HOSTILE, '--sweep', 'none'));
  assert.equal(await page.locator('#recorded-prompt').textContent(), HOSTILE);
  assert.equal(await page.title(), 'FlashBlock');
  assert.equal(await page.locator('img').count(), 0);
  await page.context().close();
});

test('consoles are silent, and nothing is asked of other hosts', async () => {
  assert.deepEqual(complaints, []);
});

// --- the run

const model = join(folder, 'model');
const chatModel = join(folder, 'chat-model'); // whose tokenizer has ChatML's token
for (const copy of [model, chatModel]) cpSync(demo, copy, {recursive: true});
const tokenizer = readFileSync(join(demo, 'tokenizer.json'), 'utf8');
writeFileSync(join(chatModel, 'tokenizer.json'), tokenizer.replaceAll('<|endoftext|>', '<|im_start|>'));
const server = await startServer(model);
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
});
let failures = 0;
console.log(`1..${cases.length}`);
for (const [i, {name, body}] of cases.entries())
  try {
    await body();
    console.log(`ok ${i + 1} - ${name}`);
  } catch (error) {
    failures++;
    console.log(`not ok ${i + 1} - ${name}`);
    console.log(String(error.stack).replace(/^/gm, '# '));
  }
await browser.close();
server.stop();
rmSync(folder, {recursive: true});
process.exitCode = failures ? 1 : 0;
