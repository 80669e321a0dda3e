// Strings that tokenizers get wrong: scripts, spaces, digits, emoji, combining marks, contractions,
// the text of added tokens, bytes that are not UTF-8. The same seed gives the same strings.

/** A generator of uniform 32-bit numbers (xorshift32). */
export function randomNumbers(seed) {
  let state = (seed * 2654435761 + 1) >>> 0 || 1;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>>= 0);
  };
  for (let i = 0; i < 8; i++) next();
  return {
    below: n => next() % n,
    pick(list) { return list[next() % list.length]; },
  };
}

const SCRIPTS = [
  [0x61, 0x7a], [0x41, 0x5a], [0xc0, 0x24f], [0x250, 0x2af], [0x370, 0x3ff], [0x400, 0x52f],
  [0x531, 0x587], [0x590, 0x5ff], [0x600, 0x6ff], [0x700, 0x74f], [0x780, 0x7bf], [0x900, 0x97f],
  [0x980, 0x9ff], [0xa00, 0xa7f], [0xb80, 0xbff], [0xc00, 0xc7f], [0xd00, 0xd7f], [0xe00, 0xe7f],
  [0xe80, 0xeff], [0xf00, 0xfff], [0x1000, 0x109f], [0x10a0, 0x10ff], [0x1100, 0x11ff],
  [0x1200, 0x137f], [0x13a0, 0x13ff], [0x1400, 0x167f], [0x1780, 0x17ff], [0x1800, 0x18af],
  [0x1e00, 0x1fff], [0x2c00, 0x2c5f], [0x3040, 0x30ff], [0x3100, 0x318f], [0x3400, 0x4dbf],
  [0x4e00, 0x9fff], [0xa000, 0xa4cf], [0xac00, 0xd7a3], [0xf900, 0xfaff], [0xfb00, 0xfdff],
  [0xfe70, 0xfeff], [0xff00, 0xffef], [0x10000, 0x100ff], [0x10330, 0x1034f], [0x10400, 0x1044f],
  [0x11000, 0x1107f], [0x11080, 0x110cf], [0x12000, 0x123ff], [0x13000, 0x1342f],
  [0x16d40, 0x16d7f], [0x1d400, 0x1d7ff], [0x1e900, 0x1e95f], [0x20000, 0x2a6df],
  [0x2f800, 0x2fa1f], [0x30000, 0x323af], [0x105c0, 0x105ff], [0x11380, 0x113ff],
  [0x16100, 0x1613f],
];
const SPACES = [' ', ' ', ' ', ' ', '  ', '\t', '\n', '\n', '\r', '\r\n', '\n\n', '\v', '\f',
  '\x1c', '\x1f', '\x85', '\xa0', '\u1680', '\u180e', '\u2000', '\u2003', '\u200a', '\u200b',
  '\u2028', '\u2029', '\u202f', '\u205f', '\u2060', '\u3000', '\ufeff'];
const DIGITS = ['0', '1', '2', '7', '9', '٣', '۷', '४', '৫', '๖', '７', '𝟗', '²', '³', '¼', '½', '⅓',
  'Ⅷ', 'ⅻ', '①', '⑳', '㈠', '㊿', '〇', '万', '𐄇', '𒐀', '𑁒'];
const PUNCTUATION = ['.', ',', ';', ':', '!', '?', "'", '"', '`', '(', ')', '[', ']', '{', '}', '<',
  '>', '/', '\\', '|', '-', '_', '=', '+', '*', '&', '%', '$', '#', '@', '~', '^', '...', '--',
  '->', '==', '«', '»', '“', '”', '‘', '’', '—', '…', '。', '，', '、', '「', '」', '€', '£', '₿', '©',
  '™', '°', '×', '÷', '±', '∀', '∑', '√', '≤', '→', '█', '░'];
const EMOJI = ['😀', '😂', '🙏', '👍', '👍🏽', '👩‍💻', '👨‍👩‍👧‍👦', '🏳️‍🌈', '🇩🇪', '🇫🇷', '❤️', '☀', '☀️', '1️⃣', '🧑🏿‍🚀',
  '🫠', '🪿', '🀄', '♟️', '🏴󠁧󠁢󠁥󠁮󠁧󠁿', '\ufe0f', '\u200d', '🏿'];
const CONTRACTIONS = ["'s", "'S", "'t", "'T", "'re", "'RE", "'rE", "'ve", "'VE", "'m", "'M", "'ll",
  "'LL", "'lL", "'d", "'D", "'\u017f", "'\u212a", '’s', "''s", "'x", "'"];
const WORDS = ['the', 'The', 'and', 'of', 'unto', 'LORD', 'beginning', 'hello', 'world', 'naïve',
  'façade', 'Straße', 'Ελλάδα', 'Москва', 'привет', 'こんにちは', '東京', '北京', '서울', 'สวัสดี', 'नमस्ते',
  'مرحبا', 'שלום', 'გამარჯობა', 'int', 'return', 'self', '__init__', 'https', 'www', 'e', 'i', 'Ω',
  'don', 'I', 'isn', 'supercalifragilistic', 'aaaaaaaaaaaaaaaa', 'xX', 'İstanbul', 'ıİ', 'ǅ'];
// Marks of many combining classes, some of them later than Unicode 15.
const MARKS = [0x300, 0x301, 0x302, 0x303, 0x304, 0x307, 0x308, 0x30a, 0x30c, 0x315, 0x31b, 0x323,
  0x324, 0x327, 0x328, 0x331, 0x334, 0x338, 0x344, 0x345, 0x359, 0x35c, 0x5b0, 0x5b4, 0x5bc, 0x64b,
  0x651, 0x654, 0x670, 0x711, 0x93c, 0x94d, 0x9be, 0xb3e, 0xe38, 0xe48, 0xf71, 0xf72, 0x1037,
  0x1161, 0x11a8, 0x1dce, 0x20d0, 0x302a, 0x3099, 0x309a, 0x110ba, 0x1d165, 0x1d16d, 0x1e4ec,
  0x10efd, 0x10d69, 0x897, 0x113c9, 0x11930];
const BASES = 'aAeEiIoOuUyYcCnNsSzZdDlLtTrRgGhHkKjJwWxX' + 'ΑαΕεΗηΙιΟοΥυΩωИиЕеКкГг' + 'かがはばぱカハウ' +
  'कखगড়য়ਲ਼அஒ' + 'אבשىيوا' + '가각ᄀᄁ' + 'ÅÉéñüÑ' + 'ẛſıİßǖṩữ' + '\u212b\u2126\u212a\u0340\u0374\u037e';
const BAD_BYTES = [[0x80], [0xbf], [0xc0, 0x80], [0xc1, 0xbf], [0xc3], [0xe0, 0x80, 0x80], [0xe2, 0x82],
  [0xed, 0xa0, 0x80], [0xed, 0xbf, 0xbf], [0xf0, 0x9f, 0x98], [0xf0, 0x80, 0x80, 0x80], [0xf4, 0x90, 0x80, 0x80],
  [0xf5], [0xf8, 0x88, 0x80, 0x80, 0x80], [0xfe], [0xff], [0xe4, 0xb8], [0xf1, 0x80, 0xff]];

function inRange(random, [low, high]) {
  const point = low + random.below(high - low + 1);
  return point >= 0xd800 && point < 0xe000 ? '\ufffd' : String.fromCodePoint(point);
}

function repeat(random, most, make) {
  let text = '';
  for (let n = 1 + random.below(most); n > 0; n--) text += make();
  return text;
}

/** Each makes one piece of a string: text, or bytes. */
function pieceMakers(random, addedTokens) {
  const mark = () => String.fromCodePoint(random.pick(MARKS));
  const bases = [...BASES];
  return [
    () => random.pick(WORDS),
    () => ' ' + random.pick(WORDS),
    () => { const script = random.pick(SCRIPTS); return repeat(random, 8, () => inRange(random, script)); },
    () => repeat(random, 5, () => random.pick(SPACES)),
    () => repeat(random, 6, () => random.pick(DIGITS)),
    () => repeat(random, 3, () => random.pick(PUNCTUATION)),
    () => repeat(random, 3, () => random.pick(EMOJI)),
    () => random.pick(WORDS) + random.pick(CONTRACTIONS) + random.pick(['', ' ', 'x', '\n']),
    () => random.pick(bases) + repeat(random, 4, mark),
    () => random.pick(WORDS).normalize('NFD') + (random.below(2) ? mark() : ''),
    () => String.fromCodePoint(0x1100 + random.below(19), 0x1161 + random.below(21)) +
          (random.below(2) ? String.fromCodePoint(0x11a8 + random.below(27)) : ''),
    () => random.pick(addedTokens),
    () => random.pick(addedTokens).slice(0, -1 - random.below(3)),
    () => inRange(random, [0, 0x10ffff]),
    () => repeat(random, 4, () => inRange(random, [0, 0x17f])),
    () => Buffer.from(random.pick(BAD_BYTES)),
    () => Buffer.from(Array.from({length: 1 + random.below(6)}, () => random.below(256))),
  ];
}

// The reference folds ASCII letters only. Oniguruma, which transformers uses, takes U+017F for an s,
// so that 'ſ is a contraction there, and here.
export const longContraction = /'\u017f/;

/** `count` strings, as Buffers. */
export function makeStrings(count, seed, addedTokens) {
  const random = randomNumbers(seed);
  const makers = pieceMakers(random, addedTokens);
  const strings = [Buffer.alloc(0), Buffer.from('\ufeffmark'), Buffer.from('a\0b')];
  while (strings.length < count) {
    const pieces = [];
    const same = random.below(4) === 0 ? random.pick(makers) : null;
    for (let n = 1 + random.below(12); n > 0; n--)
      pieces.push(Buffer.from((same ?? random.pick(makers))()));
    // Now and then a long run without a split.
    if (random.below(200) === 0)
      pieces.push(Buffer.from(random.pick(['a', 'ab', ' ', '\n', '!', '一', '́']).repeat(1 + random.below(2000))));
    strings.push(Buffer.concat(pieces));
  }
  return strings.slice(0, count);
}
