
// The page: a form that asks the server, or a recording that is in the file; playback; keys.

const byId = (id) => document.getElementById(id);
const recording = JSON.parse(byId('recording').textContent);
const panes = [];
const player = {count: 0, playing: false, last: 0};
let waiting = false; // for the next picture

// --- playback

function longest() {
  return Math.max(0, ...panes.map((pane) => pane.decoding?.length ?? 0));
}

function render() {
  waiting = false;
  const most = longest();
  player.count = Math.min(player.count, most);
  const shown = panes.map((pane) => pane.decoding && {decoding: pane.decoding, count: Math.min(player.count, pane.decoding.length)});
  panes.forEach((pane, i) => pane.show(player.count, shown[1 - i], byId('measure').value));
  panes.forEach((pane) => pane.scroll());
  byId('seek').max = most;
  byId('seek').value = player.count;
  byId('where').textContent = most ? `pass ${player.count} of ${most}` : 'no pass yet';
  byId('play').classList.toggle('playing', player.playing);
  byId('play').setAttribute('aria-label', player.playing ? 'Pause' : 'Play');
  document.body.classList.toggle('two', panes.length > 0 && panes.every((pane) => pane.decoding));
  compare(shown);
}

// Says where two texts, as far as both are shown, are the same.
function compare(shown) {
  const both = shown.length === 2 && shown[0] && shown[1];
  byId('comparison').hidden = !both;
  if (!both) return;
  const {positions, different, first} = comparisonOf(shown[0], shown[1]);
  byId('comparison').textContent = different
    ? `A and B differ at ${different} of ${count(positions, 'position')} that both have written, first at position ${first}.`
    : `A and B are the same at ${positions === 1 ? 'the one position' : `all ${positions} positions`} that both have written.`;
}

function renderSoon() {
  if (!waiting) requestAnimationFrame(render);
  waiting = true;
}

function seek(count) {
  player.playing = false;
  player.count = Math.min(Math.max(count, 0), longest());
  renderSoon();
}

function isRunning() {
  return panes.some((pane) => pane.request);
}

// Goes on by one pass when its time has come; at the end it waits for passes that are still to come.
function tick(now) {
  if (!player.playing) return;
  const speed = Number(byId('speed').value);
  const most = longest();
  if (speed === 0) player.count = most;
  else if (now - player.last >= 1000 / speed && player.count < most) {
    player.count++;
    player.last = now;
  }
  if (player.count === most && !isRunning()) player.playing = false;
  render();
  requestAnimationFrame(tick);
}

function play(from) {
  if (from !== undefined) player.count = from;
  if (player.playing) return;
  player.playing = true;
  requestAnimationFrame(tick);
}

function toggle() {
  if (player.playing) seek(player.count);
  else play(player.count === longest() && !isRunning() ? 0 : undefined);
}

function listen() {
  byId('first').addEventListener('click', () => seek(0));
  byId('back').addEventListener('click', () => seek(player.count - 1));
  byId('play').addEventListener('click', toggle);
  byId('forward').addEventListener('click', () => seek(player.count + 1));
  byId('last').addEventListener('click', () => seek(longest()));
  byId('seek').addEventListener('input', () => seek(Number(byId('seek').value)));
  byId('measure').addEventListener('change', renderSoon);
  document.addEventListener('keydown', (event) => {
    const target = event.target.closest('input, textarea, select, button');
    // A field has these keys for itself; a button only space, the slider all but space.
    const isSpace = event.key === ' ';
    const isFree = !target || (isSpace ? target.type === 'range' : target.tagName === 'BUTTON');
    if (event.ctrlKey || event.metaKey || event.altKey || !isFree) return;
    const action = {' ': toggle, ArrowLeft: () => seek(player.count - 1), ArrowRight: () => seek(player.count + 1),
      Home: () => seek(0), End: () => seek(longest())}[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

// --- light and dark

function listenToTheme() {
  const system = matchMedia('(prefers-color-scheme: dark)');
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : system.matches);
  const show = () => byId('theme').setAttribute('aria-pressed', String(isDark()));
  byId('theme').addEventListener('click', () => {
    root.dataset.theme = isDark() ? 'light' : 'dark';
    show();
  });
  system.addEventListener('change', show);
  show();
}

// --- asking the server

function complain(text) {
  byId('message').textContent = text;
  byId('message').hidden = !text;
}

function ask(path, body, signal) {
  const headers = {};
  if (byId('key').value) headers.Authorization = `Bearer ${byId('key').value}`;
  return fetch(path, {method: body ? 'POST' : 'GET', body: body && JSON.stringify(body), headers, signal});
}

// The data of each event of a stream.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    text += value;
    const events = text.split('\n\n');
    text = events.pop();
    for (const event of events) if (event.startsWith('data: ')) yield event.slice(6);
  }
}

// A failure of fetch itself is a TypeError.
function wordsOf(error) {
  return error instanceof TypeError ? 'The server cannot be reached.' : `The server says: ${error.message}.`;
}

async function errorOf(response) {
  if (response.status === 401) showKey();
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `status ${response.status}`);
}

function requestOf(tau) {
  const prompt = byId('prompt').value;
  const chat = byId('chat').checked;
  const text = chat ? {messages: [{role: 'user', content: prompt}]} : {prompt};
  const own = {tau, steps: true, block_size: Number(byId('block').value)};
  return [chat ? '/v1/chat/completions' : '/v1/completions', {...text, stream: true, max_tokens: Number(byId('tokens').value), flashblock: own}];
}

async function receive(pane, decoding, signal) {
  const response = await ask(...requestOf(decoding.tau), signal);
  if (!response.ok) throw await errorOf(response);
  for await (const data of eventsOf(response)) {
    if (data === '[DONE]') return;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    if (event.flashblock?.pass) decoding.add(event.flashblock.pass);
    if (event.flashblock?.pass) renderSoon();
  }
}

// Asks for the text of a pane anew. What was asked before in it is given up.
async function run(pane) {
  pane.request?.abort();
  const request = new AbortController();
  const decoding = new Decoding(pane.tau);
  pane.request = request;
  pane.begin(decoding);
  pane.say('…');
  byId('stop').hidden = false;
  try {
    await receive(pane, decoding, request.signal);
  } catch (error) {
    if (error.name !== 'AbortError') complain(wordsOf(error));
  }
  if (pane.request !== request) return;
  pane.request = null;
  byId('stop').hidden = !isRunning();
  pane.finish();
  renderSoon();
}

function chooseTau(pane, tau) {
  complain('');
  if (tau === null) {
    pane.request?.abort();
    pane.request = null;
    pane.clear();
    renderSoon();
  } else if (byId('prompt').value && (panes[0].decoding || pane === panes[0])) {
    run(pane);
    play(0);
  }
}

function write() {
  complain('');
  for (const pane of panes) if (pane.tau !== null) run(pane);
  play(0);
}

function showKey() {
  document.querySelector('.key').hidden = false;
  byId('key').focus();
}

function makePanes(taus, chosen, onTau) {
  const titles = ['A', 'B'];
  const empty = ['The text appears here, block by block.', 'Choose a τ here: the same prompt is written again, and the two texts stand side by side.'];
  titles.forEach((title, i) => {
    const pane = new Pane({title, taus, tau: chosen[i], canBeNone: i === 1, empty: empty[i], onSeek: seek, onTau: (tau) => onTau(panes[i], tau)});
    panes.push(pane);
    byId('panes').append(pane.element);
  });
}

async function describeServer() {
  const response = await ask('/v1/models');
  if (!response.ok) throw await errorOf(response);
  const [model] = (await response.json()).data;
  const own = model.flashblock;
  byId('model').textContent = `${model.id} · ${own.num_layers} layers × ${own.num_heads} heads`;
  byId('block').value = own.block_size;
  byId('tokens').value = Math.min(64, own.max_tokens);
  byId('chat-label').hidden = !own.chat;
  byId('chat').checked = own.chat;
  return own;
}

async function startLive() {
  byId('ask').hidden = false;
  byId('prompt').focus();
  const taus = [0, 1, 2, 3, 4, 8];
  makePanes(taus, [2, null], chooseTau);
  byId('ask').addEventListener('submit', (event) => {
    event.preventDefault();
    write();
  });
  byId('prompt').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) byId('ask').requestSubmit();
  });
  byId('stop').addEventListener('click', () => panes.forEach((pane) => pane.request?.abort()));
  const use = (own) => {
    complain('');
    if (taus.includes(own.tau)) panes[0].tau = own.tau;
  };
  const describe = () => describeServer().then(use, (error) => complain(wordsOf(error)));
  byId('key').addEventListener('change', describe);
  await describe();
}

// --- a recording

function startRecorded() {
  byId('recorded').hidden = false;
  byId('measure-label').hidden = false;
  byId('model').textContent = `${recording.model} · ${recording.num_layers} layers × ${recording.num_heads} heads · blocks of ${recording.block_size}`;
  const taus = recording.runs.map((one) => one.tau).sort((a, b) => a - b);
  const first = recording.runs[0].tau;
  const second = taus.find((tau) => tau !== first) ?? null;
  const load = (pane, tau) => {
    if (tau === null) pane.clear();
    else {
      const decoding = new Decoding(tau);
      const passes = recording.runs.find((one) => one.tau === tau).passes;
      passes.filter((pass) => pass.sequence === Number(byId('sequence').value)).forEach((pass) => decoding.add(pass));
      pane.begin(decoding);
      pane.finish();
    }
    renderSoon();
  };
  recording.prompts.forEach((prompt, i) => {
    const option = make('option', '', `${i + 1}: ${prompt.slice(0, 60)}`);
    option.value = i;
    byId('sequence').append(option);
  });
  byId('sequence-label').hidden = recording.prompts.length < 2;
  makePanes(taus, [first, second], load);
  const loadAll = () => {
    byId('recorded-prompt').textContent = recording.prompts[Number(byId('sequence').value)];
    panes.forEach((pane) => load(pane, pane.tau));
    seek(longest());
  };
  byId('sequence').addEventListener('change', loadAll);
  loadAll();
}

if (matchMedia('(prefers-reduced-motion: reduce)').matches) byId('speed').value = '0';
listen();
listenToTheme();
render();
if (recording) startRecorded();
else startLive();
