
// The picture of one decoding: text, grid of passes, keys, and heat where it was recorded. The page has one or two.

const NAMES = {
  external_mass: 'External against internal mass',
  external_cosine: 'External similarity to the step before',
  internal_cosine: 'Internal similarity to the step before',
  error: 'Error of reuse',
};

// An element with a class and a text. Texts of models and of users get into the page here and by textContent only.
function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function count(number, noun) {
  return `${number.toLocaleString('en')} ${noun}${number === 1 ? '' : noun.endsWith('s') ? 'es' : 's'}`;
}

function visible(text) {
  return text.replaceAll('\n', '↵').replaceAll('\t', '⇥');
}

function quoted(text) {
  return `“${visible(text)}”`;
}

class Pane {
  // options: {title, taus, tau, canBeNone, empty, onTau, onSeek}
  constructor(options) {
    this.options = options;
    this.element = document.getElementById('pane').content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.element.querySelector(selector);
    this.spans = new Map(); // position -> element
    this.cells = [];
    this.selected = null;
    this.decoding = null;
    this.find('h2').textContent = options.title;
    this.find('.empty').textContent = options.empty;
    this.makeTau();
    this.listen();
    this.clear();
  }

  // --- the switch of tau

  makeTau() {
    const set = this.find('.tau');
    const group = `tau-${this.options.title}`;
    const values = this.options.canBeNone ? [null, ...this.options.taus] : this.options.taus;
    for (const tau of values) {
      const label = make('label');
      const input = make('input');
      input.type = 'radio';
      input.name = group;
      input.value = tau === null ? '' : tau;
      input.checked = tau === this.options.tau;
      input.addEventListener('change', () => this.options.onTau(this.tau));
      const name = tau === null ? 'none' : tau === 0 ? '0 dense' : String(tau);
      label.append(input, make('span', '', name));
      set.append(label);
    }
    set.setAttribute('aria-label', `tau of text ${this.options.title}`);
    this.find('.text').setAttribute('aria-label', `Tokens of text ${this.options.title}`);
  }

  get tau() {
    const chosen = this.find('.tau input:checked');
    return chosen && chosen.value !== '' ? Number(chosen.value) : null;
  }

  set tau(tau) {
    for (const input of this.element.querySelectorAll('.tau input'))
      input.checked = input.value === (tau === null ? '' : String(tau));
  }

  // --- showing

  clear() {
    this.decoding = null;
    this.spans.clear();
    this.cells = [];
    this.selected = null;
    this.scrolledFor = 0;
    for (const part of ['.text', '.grid', '.detail']) this.find(part).replaceChildren();
    for (const part of ['.status', '.plain', '.pass', '.counts', '.share']) this.find(part).textContent = '';
    this.element.classList.add('is-empty');
    this.find('.heat').hidden = true;
  }

  begin(decoding) {
    this.clear();
    this.decoding = decoding;
    this.element.classList.remove('is-empty');
    this.heat = null;
  }

  // The first `count` passes; tokens that differ from those of `other` are marked.
  show(count, other, measure) {
    if (!this.decoding) return;
    this.count = Math.min(count, this.decoding.length);
    this.other = other;
    this.showText();
    this.showGrid();
    this.showKeys();
    this.showHeat(measure);
    this.showDetail();
  }

  // Said once, when a decoding is whole.
  finish() {
    const {decoding} = this;
    const counts = decoding.counts(decoding.length);
    const reasons = {stop: 'ended by itself', length: 'cut off at a limit', context: 'the context is full', cancelled: 'stopped'};
    const how = reasons[decoding.finishReason] ?? 'not finished';
    this.find('.status').textContent = `The whole text: ${count(counts.tokens, 'token')}, ${how}.`;
    this.find('.plain').textContent = `Text ${this.options.title}: ${decoding.text(decoding.length)}`;
  }

  say(text) {
    this.find('.status').textContent = text;
  }

  // --- the text

  showText() {
    const text = this.find('.text');
    const present = new Set();
    for (const block of this.decoding.begun(this.count))
      for (let i = 0; i < block.size; i++) {
        const position = block.start + i;
        let span = this.spans.get(position);
        if (!span) {
          span = this.makeToken(position);
          this.spans.set(position, span);
          text.append(span);
        }
        this.showToken(span, block, i);
        present.add(position);
      }
    for (const [position, span] of this.spans) span.hidden = !present.has(position);
    if (this.selected === null && this.spans.size) this.spans.values().next().value.tabIndex = 0;
  }

  // Where the text or the grid is longer than its box, what is new comes into view. Apart from show, so that the
  // browser lays out once for all panes.
  scroll() {
    if (!this.decoding || this.count === this.scrolledFor) return;
    this.scrolledFor = this.count;
    this.scrollTo(this.find('.text'), [...this.spans.values()].findLast((span) => !span.hidden));
    this.scrollTo(this.find('.grid'), this.cells[this.count - 1]?.parentElement);
  }

  scrollTo(box, element) {
    if (!element) return;
    const bottom = element.offsetTop + 2 * element.offsetHeight;
    if (element.offsetTop < box.scrollTop || bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
  }

  makeToken(position) {
    const span = make('span', 'token');
    span.setAttribute('role', 'option');
    span.setAttribute('aria-selected', 'false');
    span.dataset.position = position;
    span.tabIndex = -1;
    return span;
  }

  showToken(span, block, i) {
    const position = block.start + i;
    const entry = this.decoding.at(position, this.count);
    const isMask = !entry || entry.text === null;
    const proposal = isMask ? this.decoding.proposalAt(block, i, this.count) : null;
    const confidence = isMask ? proposal?.confidence : entry.confidence;
    const key = [entry?.pass, entry?.pass === this.count - 1, confidence, this.differsAt(position, entry), position >= this.endNow()].join();
    if (span.dataset.key === key) return;
    span.dataset.key = key;
    span.className = this.classesOf(position, entry, isMask).join(' ');
    span.style.setProperty('--c', confidence ?? 0);
    span.setAttribute('aria-label', this.labelOf(position, entry, proposal));
    delete span.dataset.step;
    if (isMask) span.replaceChildren();
    else this.fillToken(span, entry);
  }

  classesOf(position, entry, isMask) {
    if (isMask) return ['token', 'mask'];
    const classes = ['token', entry.kind];
    if (entry.pass === this.count - 1 && entry.step === this.decoding.passes[entry.pass].step && entry.confidence !== null)
      classes.push('fresh');
    if (position >= this.endNow()) classes.push('cut');
    else if (this.differsAt(position, entry)) classes.push('differs');
    return classes;
  }

  fillToken(span, entry) {
    span.replaceChildren(visible(entry.text) || '·');
    if (entry.kind === 'accepted' || entry.kind === 'edited') span.dataset.step = entry.step; // the style shows it
    if (entry.text.includes('\n')) span.append(make('br'));
  }

  // The end is known when the last pass is shown.
  endNow() {
    return this.count === this.decoding.length ? this.decoding.end : Infinity;
  }

  differsAt(position, entry) {
    const theirs = this.other?.decoding.at(position, this.other.count);
    return Boolean(entry && theirs && theirs.text !== null && entry.text !== null && theirs.text !== entry.text);
  }

  labelOf(position, entry, proposal) {
    const percent = (confidence) => `confidence ${Math.round(confidence * 100)} %`;
    if (!entry || entry.text === null)
      return proposal ? `mask, proposal ${proposal.text}, ${percent(proposal.confidence)}` : 'mask';
    const text = entry.text === '\n' ? 'line break' : entry.text;
    if (entry.kind === 'prompt') return `${text}, of the prompt`;
    if (entry.kind === 'given') return `${text}, known before the block`;
    const differs = this.differsAt(position, entry) ? ', differs from the other text' : '';
    return `${text}, ${entry.kind} at step ${entry.step} of block ${entry.block}, ${percent(entry.confidence)}${differs}`;
  }

  // --- one token

  select(position, focus) {
    const before = this.spans.get(this.selected);
    if (before) {
      before.setAttribute('aria-selected', 'false');
      before.tabIndex = -1;
    }
    this.selected = position;
    const span = this.spans.get(position);
    span.setAttribute('aria-selected', 'true');
    span.tabIndex = 0;
    if (focus) span.focus();
    this.showDetail();
  }

  showDetail() {
    const detail = this.find('.detail');
    const key = `${this.selected} ${this.count} ${this.decoding.length}`;
    if (detail.dataset.key === key) return;
    detail.dataset.key = key;
    detail.replaceChildren();
    if (this.selected === null) return;
    const entry = this.decoding.at(this.selected, this.count);
    const proposals = this.decoding.proposals(this.selected, this.count);
    detail.append(make('p', '', this.summaryOf(entry)));
    if (!proposals.length) return;
    const list = make('ol', 'proposals');
    for (const one of proposals) {
      const item = make('li');
      item.style.setProperty('--c', one.confidence);
      item.append(make('small', '', `step ${one.step}`), make('b', '', visible(one.text)), make('small', '', one.confidence.toFixed(2)));
      list.append(item);
    }
    detail.append(make('small', 'label', 'Proposed for this position:'), list);
  }

  summaryOf(entry) {
    const where = `Position ${this.selected}`;
    if (!entry || entry.text === null) return `${where}: still masked.`;
    if (entry.kind === 'prompt') return `${where}: ${quoted(entry.text)}, of the prompt.`;
    if (entry.kind === 'given') return `${where}: ${quoted(entry.text)}, known before its block was denoised.`;
    return `${where}: ${quoted(entry.text)}, ${entry.kind} at step ${entry.step} of block ${entry.block} with confidence ${entry.confidence.toFixed(2)}.`;
  }

  // --- the grid

  showGrid() {
    const grid = this.find('.grid');
    const {decoding} = this;
    while (this.cells.length < decoding.length) this.addCell(grid, this.cells.length);
    const columns = decoding.blocks.reduce((most, block) => Math.max(most, block.passes.length), 1);
    grid.style.setProperty('--columns', columns);
    grid.classList.toggle('many', columns > 18);
    this.cells.forEach((cell, index) => {
      cell.classList.toggle('ahead', index >= this.count);
      cell.classList.toggle('now', index === this.count - 1);
    });
    const counts = decoding.counts(this.count);
    const parts = [`${counts.refresh} refreshed`, `${counts.reuse} reused`, count(counts.commit, 'commit')];
    if (counts.partial) parts.splice(1, 0, `${counts.partial} in part`);
    this.find('.counts').textContent = `Steps: ${parts.join(', ')}.`;
    grid.setAttribute('aria-label', `Passes, a row for each block: ${parts.join(', ')}`);
    this.showPass();
  }

  addCell(grid, index) {
    const pass = this.decoding.passes[index];
    const block = this.decoding.blocks.findLast((one) => one.passes.includes(index));
    if (block.passes[0] === index) {
      const row = make('div', 'block');
      row.append(make('small', '', String(block.number)));
      grid.append(row);
    }
    const share = litShare(pass);
    const lit = share === 0 ? 'reuse' : share < 1 ? 'partial' : 'refresh';
    const cell = make('i', `cell ${lit}`, pass.commit ? '' : String(pass.accepted.length + pass.edited.length));
    if (pass.commit) cell.classList.add('commit');
    if (lit === 'partial') cell.style.setProperty('--share', share);
    cell.dataset.index = index;
    cell.title = this.describe(pass);
    grid.lastElementChild.append(cell);
    this.cells.push(cell);
  }

  describe(pass) {
    const name = pass.commit ? 'commit' : `step ${pass.step}`;
    const edits = pass.edited.length ? `, ${pass.edited.length} edited` : '';
    const keys = pass.keys_read === null ? '' : `, ${pass.keys_read} of ${pass.keys} keys`;
    const accepted = pass.commit ? '' : `, ${pass.accepted.length} accepted${edits}`;
    return `Block ${pass.block}, ${name}: ${pass.action}${accepted}${keys}`;
  }

  showPass() {
    const pass = this.decoding.passes[this.count - 1];
    this.find('.pass').textContent = pass ? `${this.describe(pass)}.` : '';
  }

  // --- keys

  // Bars and colours have one scale for both texts.
  both() {
    return this.other ? [this.decoding, this.other.decoding] : [this.decoding];
  }

  showKeys() {
    const {keys, read} = this.decoding.sums[this.count];
    const all = Math.max(1, ...this.both().map((decoding) => decoding.sums[decoding.length].keys));
    const put = (name, value, text) => {
      this.find(`.${name} i`).style.setProperty('--w', value / all);
      this.find(`.${name} span`).textContent = text;
    };
    put('dense', keys, `dense ${keys.toLocaleString('en')}`);
    put('read', read ?? 0, read === null ? 'not counted' : `read ${read.toLocaleString('en')}`);
    this.find('.share').textContent = read === null || keys === 0 ? '' : `${Math.round((100 * read) / keys)} % of dense, in each layer.`;
  }

  // --- heat

  showHeat(measure) {
    const figure = this.find('.heat');
    const other = this.other?.decoding;
    if (!this.heat || this.heat.measure !== measure || this.heat.length !== this.decoding.length || this.heat.other !== other) {
      const columns = heatOf(this.decoding, measure);
      const scale = heatScale(measure, this.both().flatMap((decoding) => heatOf(decoding, measure)));
      this.heat = {measure, columns, length: this.decoding.length, other, scale};
      figure.hidden = !columns.length;
      if (columns.length) this.drawSteps(figure);
    }
    if (this.heat.columns.length) this.drawNow(figure);
  }

  drawSteps(figure) {
    const {measure, columns, scale} = this.heat;
    const layers = columns[0].values.length;
    figure.querySelector('h3').textContent = NAMES[measure];
    drawMap(figure.querySelector('.steps canvas'), columns.length, layers, (x, y) => scale.colour(meanOf(columns[x].values[y])));
    const [low, high] = figure.querySelectorAll('.scale span');
    low.textContent = scale.lowName;
    high.textContent = scale.highName;
    figure.querySelector('.scale i').style.background = `linear-gradient(to right, ${scale.stops().join(', ')})`;
    figure.querySelector('.steps').setAttribute('aria-label', `${NAMES[measure]}, mean over heads, for ${layers} layers and ${columns.length} denoising steps`);
  }

  drawNow(figure) {
    const {measure, columns, scale} = this.heat;
    const at = columns.findLastIndex((column) => column.index < this.count);
    const column = columns[Math.max(at, 0)];
    const now = figure.querySelector('.now');
    now.hidden = at < 0;
    now.style.left = `${(100 * at) / columns.length}%`;
    now.style.width = `${100 / columns.length}%`;
    const values = column.values;
    drawMap(figure.querySelector('.heads canvas'), values[0].length, values.length, (x, y) => scale.colour(values[y][x]));
    const all = values.flat();
    const mean = meanOf(all);
    const pass = this.decoding.passes[column.index];
    const words = mean === null ? 'no value: a block’s first step has no step before it' : `mean ${mean.toPrecision(3)}`;
    const caption = `Block ${pass.block}, step ${pass.step} (${pass.action}): ${words}`;
    figure.querySelector('figcaption').textContent = `${caption}.`;
    figure.querySelector('.heads').setAttribute('aria-label', `${NAMES[measure]} of each layer and head. ${caption}`);
  }

  // --- what a person does

  listen() {
    const text = this.find('.text');
    text.addEventListener('click', (event) => {
      const span = event.target.closest('.token');
      if (span) this.select(Number(span.dataset.position), true);
    });
    text.addEventListener('focusin', (event) => {
      const position = Number(event.target.dataset.position);
      if (position !== this.selected && this.spans.has(position)) this.select(position, false);
    });
    text.addEventListener('keydown', (event) => this.moveSelection(event));
    this.find('.grid').addEventListener('click', (event) => {
      const index = event.target.dataset.index;
      if (index !== undefined) this.options.onSeek(Number(index) + 1);
    });
    this.find('.steps').addEventListener('click', (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      const {columns} = this.heat;
      const column = columns[Math.min(columns.length - 1, Math.floor(((event.clientX - box.left) / box.width) * columns.length))];
      this.options.onSeek(column.index + 1);
    });
  }

  moveSelection(event) {
    const shown = [...this.spans].filter(([, span]) => !span.hidden).map(([position]) => position);
    const at = shown.indexOf(this.selected);
    const to = {ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: shown.length - 1}[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    event.stopPropagation();
    this.select(shown[Math.min(Math.max(to, 0), shown.length - 1)], true);
  }
}

// --- colours of heat

function mix(from, to, share) {
  return from.map((value, i) => Math.round(value + (to[i] - value) * share));
}

function along(stops, share) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(at), stops.length - 2);
  return mix(stops[i], stops[i + 1], at - i);
}

// Okabe and Ito's blue and vermilion, which colour-blind people tell apart; and from dark to bright for the others.
const DIVERGING = [[213, 94, 0], [240, 200, 170], [246, 246, 244], [165, 205, 232], [0, 114, 178]];
const SEQUENTIAL = [[28, 30, 70], [86, 60, 128], [176, 78, 110], [240, 140, 70], [252, 226, 150]];

// Mass is from 0 (internal) to 1 (external); others are from the least to the greatest value that there is.
function heatScale(measure, columns) {
  const known = columns.flatMap((column) => column.values.flat()).filter((value) => value !== null);
  const isMass = measure === 'external_mass';
  let low = isMass || measure === 'error' || !known.length ? 0 : known.reduce((a, b) => Math.min(a, b));
  let high = isMass || measure !== 'error' || !known.length ? 1 : known.reduce((a, b) => Math.max(a, b));
  if (high <= low) high = low + 1;
  const stops = isMass ? DIVERGING : SEQUENTIAL;
  const text = (value) => String(Number(value.toPrecision(2)));
  return {
    colour: (value) => (value === null ? null : along(stops, (value - low) / (high - low))),
    stops: () => stops.map((stop) => `rgb(${stop.join()})`),
    lowName: isMass ? 'all internal' : text(low),
    highName: isMass ? 'all external' : text(high),
  };
}

// A pixel for each cell; the style makes it large. A cell without a value is transparent.
function drawMap(canvas, width, height, colourAt) {
  canvas.width = width;
  canvas.height = height;
  canvas.parentElement.style.setProperty('--columns', width);
  canvas.parentElement.style.setProperty('--rows', height);
  const context = canvas.getContext('2d');
  const image = context.createImageData(width, height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const colour = colourAt(x, y);
      if (colour) image.data.set([...colour, 255], 4 * (y * width + x));
    }
  context.putImageData(image, 0, 0);
}
