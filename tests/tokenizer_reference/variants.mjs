// Tokenizers that differ from a given one in what `changes` says: other families' ways to split,
// and added tokens with every flag that the reference knows. Each object replaces the fields of the
// same name.

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const upper = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]', lower = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]';

const byteLevel = (options = {}) =>
  ({type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false, ...options});
const split = pattern => ({type: 'Split', pattern: {Regex: pattern}, behavior: 'Isolated', invert: false});
const sequence = patterns => ({type: 'Sequence', pretokenizers: [...patterns.map(split), byteLevel()]});

const added = (id, content, flags = {}) =>
  ({id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: false, ...flags});

export const variants = [
  {name: 'as it is', changes: {}},
  {name: 'GPT-2', changes: {
    normalizer: null,
    pre_tokenizer: byteLevel({add_prefix_space: true, use_regex: true}),
  }},
  {name: 'Llama 3', changes: {
    normalizer: null,
    pre_tokenizer: sequence([
      contractions + '|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|' +
      '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+']),
    model: {ignore_merges: true},
  }},
  {name: 'o200k', changes: {
    normalizer: {type: 'Sequence', normalizers: [{type: 'NFC'}]},
    pre_tokenizer: sequence([
      `[^\\r\\n\\p{L}\\p{N}]?${upper}*${lower}+${contractions}?|` +
      `[^\\r\\n\\p{L}\\p{N}]?${upper}+${lower}*${contractions}?|` +
      '\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+']),
  }},
  {name: 'three splits', changes: {
    normalizer: {type: 'Sequence', normalizers: []},
    pre_tokenizer: sequence([
      '\\p{N}{1,3}',
      '[一-龥\u3040-ゟ゠-ヿ]+',
      '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?' +
      '[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+']),
  }},
  {name: 'added tokens', changes: {
    added_tokens: [
      added(1021, '<|endoftext|>', {special: true}),
      added(1022, '<|im_end|>', {special: true, rstrip: true}),
      added(1023, '<|MASK|>', {special: true, lstrip: true}),
      added(1024, '<|'), added(1025, '<|im_end|><|im_end|>'), added(1026, 'the'),
      added(1027, 'caf\u0229', {normalized: true}), added(1028, 'ne\u0301', {normalized: true}),
      added(1029, 'unto', {lstrip: true, rstrip: true}), added(1030, '\u212b'),
    ],
  }},
  {name: 'Ling, LLaDA2', changes: {
    normalizer: null,
    pre_tokenizer: sequence([
      "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|" +
      '\\s*[\\r\\n]|\\s+(?!\\S)|\\s+']),
  }},
];

/** Where the reference follows JavaScript's idea of white space, it is left aside. */
export const javaScriptSpaces = /[\u0085\u180e\ufeff]/;

/** JavaScript has no possessive quantifiers. In this family's expression they change no match: what
 * follows one cannot match what it would give back. */
export function withoutPossessive(tokenizer) {
  const plain = step => step.pattern?.Regex
    ? {...step, pattern: {Regex: step.pattern.Regex.replaceAll('?+', '?').replaceAll('++', '+')}} : step;
  const before = tokenizer.pre_tokenizer;
  return before?.pretokenizers
    ? {...tokenizer, pre_tokenizer: {...before, pretokenizers: before.pretokenizers.map(plain)}} : tokenizer;
}

export function applyChanges(tokenizer, changes) {
  return {...tokenizer, ...changes, model: {...tokenizer.model, ...changes.model}};
}
