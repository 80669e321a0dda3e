'use strict';

// One decoding: its passes in their order, and what became of each position. No part of the page is touched here.
// docs/page.md says what a pass holds.
class Decoding {
  constructor(tau) {
    this.tau = tau;
    this.passes = [];
    this.blocks = []; // {number, start, size, passes: [indices]}
    this.histories = new Map(); // position -> [{pass, text, kind, step, block, confidence}]
    this.sums = [{keys: 0, read: 0}]; // of the first k passes; read is null where it is not known
    this.end = Infinity; // the first position behind the text
    this.finishReason = null;
  }

  get length() {
    return this.passes.length;
  }

  add(pass) {
    const index = this.passes.length;
    this.passes.push(pass);
    const sum = this.sums[index];
    const known = sum.read !== null && pass.keys_read !== null;
    this.sums.push({keys: sum.keys + pass.keys, read: known ? sum.read + pass.keys_read : null});
    this.blockOf(pass).passes.push(index);
    const accepted = new Set(pass.accepted);
    const edited = new Set(pass.edited);
    pass.tokens.forEach((text, i) => {
      const kind = edited.has(i) ? 'edited' : accepted.has(i) ? 'accepted' : i < pass.prompt ? 'prompt' : 'given';
      this.note(index, i, text, kind);
    });
    if (pass.finish_reason) {
      this.end = pass.end;
      this.finishReason = pass.finish_reason;
    }
  }

  blockOf(pass) {
    let block = this.blocks.at(-1);
    if (!block || block.number !== pass.block) {
      block = {number: pass.block, start: pass.start, size: pass.size, passes: []};
      this.blocks.push(block);
    }
    return block;
  }

  // What pass `index` made of position i of its block, where that is new.
  note(index, i, text, kind) {
    const pass = this.passes[index];
    const position = pass.start + i;
    if (!this.histories.has(position)) this.histories.set(position, []);
    const history = this.histories.get(position);
    const last = history.at(-1);
    const decided = kind === 'edited' || kind === 'accepted';
    if (text === (last ? last.text : null) && !decided) return;
    const confidence = pass.confidence ? pass.confidence[i] : null;
    if (last && !decided) history.push({...last, pass: index, text}); // a neighbour completed its character
    else history.push({pass: index, text, kind, step: pass.step, block: pass.block, confidence});
  }

  // The last entry of a history that is not after the first `count` passes; undefined: there is none.
  at(position, count) {
    return this.histories.get(position)?.findLast((entry) => entry.pass < count);
  }

  // What the block's last step among the first `count` passes proposes for position i of it.
  proposalAt(block, i, count) {
    const index = block.passes.findLast((one) => one < count && this.passes[one].confidence);
    if (index === undefined) return null;
    const pass = this.passes[index];
    return pass.confidence[i] === null ? null : {text: pass.proposed[i], confidence: pass.confidence[i]};
  }

  // All proposals for a position, step by step.
  proposals(position, count) {
    const block = this.blocks.find((one) => position >= one.start && position < one.start + one.size);
    if (!block) return [];
    return block.passes
      .filter((index) => index < count && this.passes[index].confidence)
      .map((index) => this.passes[index])
      .filter((pass) => pass.confidence[position - block.start] !== null)
      .map((pass) => ({
        step: pass.step,
        text: pass.proposed[position - block.start],
        confidence: pass.confidence[position - block.start],
      }));
  }

  // The blocks that have begun within the first `count` passes.
  begun(count) {
    return this.blocks.filter((block) => block.passes[0] < count);
  }

  // The text of the first `count` passes, without prompt, masks and what is behind the end.
  text(count) {
    let text = '';
    for (const block of this.begun(count))
      for (let i = 0; i < block.size; i++) {
        const entry = this.at(block.start + i, count);
        if (entry && entry.text !== null && entry.kind !== 'prompt' && block.start + i < this.end) text += entry.text;
      }
    return text;
  }

  counts(count) {
    const counts = {refresh: 0, partial: 0, reuse: 0, commit: 0, tokens: 0};
    for (const pass of this.passes.slice(0, count)) counts[kindOf(pass)]++;
    for (const position of this.histories.keys()) {
      const entry = this.at(position, count);
      if (entry && entry.text !== null && entry.kind !== 'prompt' && position < this.end) counts.tokens++;
    }
    return counts;
  }
}

// Positions that two decodings have written within their first passes: [{decoding, count}, the same]. What is behind
// the end of one of them is left out.
function comparisonOf(one, other) {
  const end = Math.min(one.decoding.end, other.decoding.end);
  const result = {positions: 0, different: 0, first: null};
  for (const position of one.decoding.histories.keys()) {
    const mine = one.decoding.at(position, one.count);
    const theirs = other.decoding.at(position, other.count);
    if (!mine || !theirs || mine.text === null || theirs.text === null) continue;
    if (mine.kind === 'prompt' || position >= end) continue;
    result.positions++;
    if (mine.text === theirs.text) continue;
    result.different++;
    result.first = Math.min(result.first ?? position, position);
  }
  return result;
}

// What a pass did: commit, refresh, reuse, or something of both.
function kindOf(pass) {
  if (pass.commit) return 'commit';
  if (pass.action === 'reuse') return 'reuse';
  return pass.action === 'refresh rows' || pass.action === 'refresh heads' ? 'partial' : 'refresh';
}

// The share of a pass's rows whose external part was computed.
function litShare(pass) {
  return pass.rows > 0 ? Math.min(1, pass.external_rows / pass.rows) : 0;
}

// Numbers of the heads at each denoising step of a decoding: [{index, values: [layers][heads]}].
function heatOf(decoding, measure) {
  const columns = [];
  decoding.passes.forEach((pass, index) => {
    if (pass.heads) columns.push({index, values: pass.heads[measure]});
  });
  return columns;
}

function meanOf(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}
