// Writes tests/data/tokenizer/expected.json: strings, and what @huggingface/tokenizers makes of them.
//   node make_fixture.mjs PACKAGES > ../data/tokenizer/expected.json
// PACKAGES is the directory that holds node_modules (see compare.sh).
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {resolve} from 'node:path';
import {longContraction, makeStrings} from './strings.mjs';
import {applyChanges, javaScriptSpaces, variants, withoutPossessive} from './variants.mjs';

const load = createRequire(resolve(process.argv[2], 'package.json'));
const {Tokenizer} = load('@huggingface/tokenizers');
const json = JSON.parse(readFileSync(new URL('../data/tokenizer/tokenizer.json', import.meta.url)));
const decoder = new TextDecoder('utf-8', {ignoreBOM: true});
const config = {clean_up_tokenization_spaces: false};

const fixture = variants.map(({name, changes}, index) => {
  const tokenizer = applyChanges(json, changes);
  const reference = new Tokenizer(withoutPossessive(tokenizer), config);
  const contents = tokenizer.added_tokens.map(token => token.content);
  const strings = makeStrings(index ? 120 : 400, 100 + index, contents)
    .filter(string => string.length <= 120)
    .filter(string => !longContraction.test(decoder.decode(string)))
    .filter(string => !index || !javaScriptSpaces.test(decoder.decode(string)))
    .map(string => {
      const ids = reference.encode(decoder.decode(string)).ids;
      const text = ids.length ? reference.decode(ids) : '';
      return [string.toString('hex'), ids, Buffer.from(text).toString('hex')];
    });
  return {name, changes, strings};
});

// One string a line.
const lines = fixture.map(({name, changes, strings}) =>
  `{"name":${JSON.stringify(name)},\n"changes":${JSON.stringify(changes)},\n"strings":[\n` +
  strings.map(string => JSON.stringify(string)).join(',\n') + '\n]}');
console.log(`{"variants":[\n${lines.join(',\n')}\n]}`);
