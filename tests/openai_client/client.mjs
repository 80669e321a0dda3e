// Asks a server of flashblock with the npm package openai, as its users do. Prints TAP.
//   node client.mjs PACKAGES URL BUSY_URL
// PACKAGES is the directory that holds node_modules. The server at URL has the key "secret"; the one at BUSY_URL
// has none, one place, and one place to wait.
import {createRequire} from 'node:module';
import {resolve} from 'node:path';
import assert from 'node:assert/strict';

const [packages, baseURL, busyURL] = process.argv.slice(2);
const {OpenAI} = createRequire(resolve(packages, 'package.json'))('openai');
const client = new OpenAI({baseURL, apiKey: 'secret', maxRetries: 0});
const model = 'model', prompt = 'And it came to pass';
const messages = [{role: 'user', content: 'Who art thou?'}];
const chat = client.chat.completions, completions = client.completions;

/** The number of a metric. */
async function metric(url, name) {
  const reply = await fetch(new URL('/metrics', url), {headers: {Authorization: 'Bearer secret'}});
  return Number((await reply.text()).match(new RegExp(`^flashblock_${name} (\\S+)$`, 'm'))[1]);
}

async function waitFor(url, name, value) {
  for (let tries = 0; await metric(url, name) !== value; tries++) {
    assert(tries < 1000, `${name} is not ${value}`);
    await new Promise(done => setTimeout(done, 20));
  }
}

/** The error of a request that has to fail. */
async function errorOf(request) {
  try { await request; } catch (error) { return error; }
  assert.fail('there was no error');
}

async function isWrong(fields, word) {
  const error = await errorOf(completions.create({model, prompt, ...fields}));
  assert(error instanceof OpenAI.BadRequestError, String(error));
  assert.equal(error.type, 'invalid_request_error');
  assert(error.message.includes(word), `${word}: ${error.message}`);
}

const cases = {
  async 'a chat, whole and as a stream'() {
    const whole = await chat.create({model, messages});
    const {content, role} = whole.choices[0].message;
    assert.equal(role, 'assistant');
    assert.equal(whole.choices[0].finish_reason, 'length');
    assert.equal(whole.usage.completion_tokens, 16);
    assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + 16);
    const pieces = [];
    let usage;
    for await (const event of await chat.create({model, messages, stream: true, stream_options: {include_usage: true}})) {
      pieces.push(event.choices[0]?.delta?.content ?? '');
      usage = event.usage ?? usage;
    }
    assert.equal(pieces.join(''), content);
    assert(pieces.length > 3);
    assert.equal(usage.completion_tokens, 16);
    assert.equal(await chat.stream({model, messages}).finalContent(), content);
  },

  async 'a second turn'() {
    const first = await chat.create({model, messages});
    const turns = [...messages, first.choices[0].message, {role: 'user', content: [{type: 'text', text: 'And then?'}]}];
    const second = await chat.create({model, messages: turns});
    assert(second.usage.prompt_tokens_details.cached_tokens > 0);
  },

  async 'a completion, whole and as a stream'() {
    const whole = await completions.create({model, prompt, max_tokens: 24});
    const pieces = [];
    for await (const event of await completions.create({model, prompt, max_tokens: 24, stream: true}))
      pieces.push(event.choices[0].text);
    assert.equal(pieces.join(''), whole.choices[0].text);
    assert.equal(whole.usage.completion_tokens, 24);
  },

  async 'several texts, and seeds'() {
    const drawn = {model, prompt, temperature: 0.9, top_p: 0.95};
    const texts = async fields => (await completions.create({...drawn, ...fields})).choices.map(choice => choice.text);
    const three = await texts({n: 3, seed: 5});
    assert.equal(new Set(three).size, 3);
    assert.deepEqual(await texts({n: 3, seed: 5}), three);
    assert.deepEqual(await texts({seed: 6}), [three[1]]);
  },

  async 'stop texts'() {
    const whole = (await completions.create({model, prompt})).choices[0].text;
    const stop = whole.slice(8, 13);
    const cut = (await completions.create({model, prompt, stop})).choices[0];
    assert.equal(cut.text, whole.slice(0, whole.indexOf(stop)));
    assert.equal(cut.finish_reason, 'stop');
  },

  async 'fields of this project, which the package passes on'() {
    const dense = await completions.create({model, prompt, flashblock: {tau: 0}});
    assert.equal(dense.flashblock.reuses, 0);
    const reused = await completions.create({model, prompt, flashblock: {tau: 4}});
    assert(reused.flashblock.reuses > 0);
  },

  async 'a stream that is aborted frees its place'() {
    const cancelled = await metric(baseURL, 'requests_cancelled_total');
    const stream = await chat.create({model, messages, stream: true, max_tokens: 12000});
    let events = 0;
    for await (const event of stream) {
      assert(event.choices.length > 0);
      if (++events === 5) break; // the package then aborts the request
    }
    await waitFor(baseURL, 'active_sequences', 0);
    assert.equal(await metric(baseURL, 'requests_cancelled_total'), cancelled + 1);
  },

  async 'a request that is aborted frees its place'() {
    const cancelled = await metric(baseURL, 'requests_cancelled_total');
    const controller = new AbortController();
    const request = errorOf(chat.create({model, messages, max_tokens: 12000}, {signal: controller.signal}));
    await waitFor(baseURL, 'active_sequences', 1);
    controller.abort();
    assert(await request instanceof OpenAI.APIUserAbortError);
    await waitFor(baseURL, 'active_sequences', 0);
    assert.equal(await metric(baseURL, 'requests_cancelled_total'), cancelled + 1);
  },

  async 'models'() {
    assert.deepEqual((await client.models.list()).data.map(one => one.id), [model]);
    assert.equal((await client.models.retrieve(model)).id, model);
    const error = await errorOf(client.models.retrieve('another'));
    assert(error instanceof OpenAI.NotFoundError, String(error));
    assert.equal(error.code, 'model_not_found');
  },

  async 'a model that is not there'() {
    const error = await errorOf(chat.create({model: 'another', messages}));
    assert(error instanceof OpenAI.NotFoundError, String(error));
    assert.equal(error.code, 'model_not_found');
  },

  async 'a wrong key'() {
    const wrong = new OpenAI({baseURL, apiKey: 'wrong', maxRetries: 0});
    assert(await errorOf(wrong.chat.completions.create({model, messages})) instanceof OpenAI.AuthenticationError);
  },

  async 'requests that are wrong'() {
    await isWrong({max_tokens: 0}, 'max_tokens');
    await isWrong({temperature: 3}, 'temperature');
    await isWrong({n: 100}, 'n is');
    await isWrong({stop: ['a', 'b', 'c', 'd', 'e']}, 'stop');
    await isWrong({prompt: 'word '.repeat(20000)}, '16384');
    assert(await errorOf(chat.create({model, messages: []})) instanceof OpenAI.BadRequestError);
    const reply = await fetch(`${baseURL}/chat/completions`,
      {method: 'POST', body: '{"messages": [', headers: {Authorization: 'Bearer secret'}});
    assert.equal(reply.status, 400);
    assert.equal((await reply.json()).error.type, 'invalid_request_error');
  },

  async 'too many requests'() {
    const busy = new OpenAI({baseURL: busyURL, apiKey: 'any', maxRetries: 0});
    const controller = new AbortController();
    const waiting = [];
    for (const [name, value] of [['active_sequences', 1], ['queue_length', 1]]) {
      waiting.push(errorOf(busy.completions.create({model, prompt, max_tokens: 12000}, {signal: controller.signal})));
      await waitFor(busyURL, name, value);
    }
    const error = await errorOf(busy.completions.create({model, prompt}));
    assert(error instanceof OpenAI.RateLimitError, String(error));
    assert.equal(error.headers.get('retry-after'), '1');
    controller.abort();
    await Promise.all(waiting);
    await waitFor(busyURL, 'active_sequences', 0);
    // The package tries again after a 429, as its users have it by default.
    const patient = new OpenAI({baseURL: busyURL, apiKey: 'any', maxRetries: 5});
    await Promise.all(Array.from({length: 4}, () => patient.completions.create({model, prompt})));
  },
};

console.log(`1..${Object.keys(cases).length}`);
let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  try {
    await run();
    console.log(`ok - ${name}`);
  } catch (error) {
    failed = 1;
    console.log(`not ok - ${name}\n${String(error.stack).replace(/^/gm, '# ')}`);
  }
}
process.exit(failed);
