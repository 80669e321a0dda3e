"""The King James text and the tokenizer of golden/demo-model. Only Python's standard library is needed.

The text comes from the program `bible` of Debian's package bible-kjv. Every 50th chapter is held out.
"""
import collections
import json
import math
import random
import re
import subprocess

import demo_tasks

HELD_OUT_EVERY = 50  # chapters
VOCABULARY = 2048

# Qwen's pre-tokenizer: words with their leading space, single digits, runs of punctuation, white space.
PRETOKEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ASCII_PRETOKEN = re.compile(PRETOKEN.replace(r"\p{L}", "a-zA-Z").replace(r"\p{N}", "0-9")
                            .replace("?a-zA-Z+", "?[a-zA-Z]+").replace("|0-9|", "|[0-9]|"))  # fmt: skip
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|MASK|>")  # the last ids


def read_chapters():
    """A text a chapter: a heading "# Book N", then a line a verse, without its number."""
    printed = subprocess.run(["bible", "gen1:1-rev22:21"], capture_output=True, check=True).stdout
    chapters, verse = [], []

    def end_verse():
        if verse:
            chapters[-1] += " ".join(verse) + "\n"
            verse.clear()

    for line in printed.decode("latin-1").splitlines():
        start = re.match(r" {1,3}\d+ (.*)", line)
        if start:  # "  12 And the earth brought forth ..."
            end_verse()
            verse.append(start[1].strip())
        elif not line.strip():
            end_verse()
        elif verse and not re.fullmatch(r"[A-Z0-9][A-Za-z0-9 ]+ \d+", line):
            verse.append(line.strip())
        else:  # "Genesis 1"
            end_verse()
            chapters.append(f"\n# {line.strip()}\n")
    end_verse()
    return chapters


def split_chapters(chapters):
    """(text for training, held-out text)"""
    held_out = [i % HELD_OUT_EVERY == HELD_OUT_EVERY // 2 for i in range(len(chapters))]
    return tuple("".join(c for c, held in zip(chapters, held_out) if held == side) for side in (False, True))


def verses_of(text):
    """Verses short enough to stand in a ledger."""
    return [line for line in text.split("\n") if 20 < len(line) < 140 and not line.startswith("#")]


# --------------------------------------------------------------------------------------- byte-pair encoding


def byte_letters():
    """GPT-2's table: a printable letter for each byte, itself where that is printable."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def merge_pair(symbols, pair):
    """Replace each occurrence of the pair, from the left, by one symbol."""
    merged, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(symbols[i])
            i += 1
    return merged


def train_bpe(counts, size):
    """Merge the most frequent pair of neighbours until the vocabulary is full. counts: word -> occurrences"""
    letters = byte_letters()
    words = [[letters[byte] for byte in word.encode()] for word in counts]
    weights = list(counts.values())
    vocab, merges = [letters[byte] for byte in range(256)], []
    frequency, words_with = collections.Counter(), collections.defaultdict(set)

    def count_pairs(index, sign):
        for pair in zip(words[index], words[index][1:]):
            frequency[pair] += sign * weights[index]
            words_with[pair].add(index)

    for index in range(len(words)):
        count_pairs(index, +1)
    while len(vocab) < size:
        pair = max(frequency, key=lambda p: (frequency[p], p))
        merges.append(pair)
        vocab.append(pair[0] + pair[1])
        for index in list(words_with[pair]):
            count_pairs(index, -1)
            words[index] = merge_pair(words[index], pair)
            count_pairs(index, +1)
        del frequency[pair]
    return vocab, merges


def task_words():
    """Every name and thing: each is to be one token after a space."""
    tasks = demo_tasks
    return (tasks.NAMES + tasks.PLACES + tasks.ITEMS + tasks.TRADES + tasks.RELATIONS + tasks.ADJECTIVES + tasks.OBJECTS)


def tokenizer_sample(text):
    """Word counts of the prose, of some problems, and of every name and thing."""
    rng, sample = random.Random(1), []
    for _ in range(700):
        ledger = demo_tasks.Ledger(rng, rng.choice((20, 60, 120)), demo_tasks.TRAIN)
        questions = filter(None, (ledger.question() for _ in range(8)))
        sample.append(ledger.text + "".join(demo_tasks.ask(q) + demo_tasks.reply(q) + "\n" for q in questions))
    for _ in range(8000):
        problem = demo_tasks.Problem(rng, rng.randint(2, 8), demo_tasks.TRAIN)
        sample.append(problem.prompt() + problem.reply() + "\n" + demo_tasks.sheet_question(problem))
    counts = collections.Counter(ASCII_PRETOKEN.findall(text + demo_tasks.plain("".join(sample))))
    for word in task_words():
        counts[" " + word] += 3000
    return counts


def tokenizer_json(vocab, merges):
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=False, use_regex=False)
    split = dict(type="Split", pattern={"Regex": PRETOKEN}, behavior="Isolated", invert=False)
    return dict(
        version="1.0",
        added_tokens=[dict(id=len(vocab) + i, content=s, **flags) for i, s in enumerate(SPECIAL_TOKENS)],
        normalizer=dict(type="NFC"),
        pre_tokenizer=dict(type="Sequence", pretokenizers=[split, byte_level]),
        post_processor=None,
        decoder=byte_level,
        model=dict(
            type="BPE",
            dropout=None,
            unk_token=None,
            continuing_subword_prefix="",
            end_of_word_suffix="",
            fuse_unk=False,
            byte_fallback=False,
            vocab={symbol: i for i, symbol in enumerate(vocab)},
            merges=[list(pair) for pair in merges],
        ),
    )


def prepare(work):
    """Write text.txt, held-out.txt and tokenizer.json into the folder `work`."""
    text, held_out = split_chapters(read_chapters())
    assert text.isascii() and held_out.isascii()  # ASCII_PRETOKEN equals PRETOKEN on such text
    (work / "text.txt").write_text(text)
    (work / "held-out.txt").write_text(held_out)
    made = tokenizer_json(*train_bpe(tokenizer_sample(text), VOCABULARY - len(SPECIAL_TOKENS)))
    with open(work / "tokenizer.json", "w", encoding="utf-8") as file:
        json.dump(made, file, ensure_ascii=False)
    tokenizer = Tokenizer(work / "tokenizer.json")
    several = [word for word in task_words() if len(tokenizer.encode(" " + word)) > 1]
    count = len(tokenizer.encode(held_out))
    print(f"{len(text)} characters to train on, {len(held_out)} held out ({count} tokens); "
          f"names and things of several tokens: {several}")  # fmt: skip


class Tokenizer:
    """Reads tokenizer.json. For ASCII text."""

    def __init__(self, path):
        made = json.loads(path.read_text(encoding="utf-8"))
        self.end, self.mask = made["added_tokens"][0]["id"], made["added_tokens"][-1]["id"]
        self.ids = made["model"]["vocab"]
        self.rank = {tuple(pair): i for i, pair in enumerate(made["model"]["merges"])}
        self.letters = byte_letters()
        byte_of = {letter: byte for byte, letter in self.letters.items()}
        self.bytes = {i: bytes(byte_of[letter] for letter in symbol) for symbol, i in self.ids.items()}
        self.known = {}

    def encode_word(self, word):
        symbols = [self.letters[byte] for byte in word.encode()]
        while len(symbols) > 1:
            best = min(zip(symbols, symbols[1:]), key=lambda pair: self.rank.get(pair, math.inf))
            if best not in self.rank:
                break
            symbols = merge_pair(symbols, best)
        return tuple(self.ids[symbol] for symbol in symbols)

    def encode(self, text):
        tokens, known = [], self.known
        for word in ASCII_PRETOKEN.findall(text):
            ids = known.get(word)
            if ids is None:
                ids = known[word] = self.encode_word(word)
            tokens += ids
        return tokens

    def decode(self, tokens):
        return b"".join(self.bytes.get(int(t), b"") for t in tokens).decode(errors="replace")

    def weighted(self, text, low, high):
        """(tokens, weights) of a text with marks: `high` between ON and OFF, `low` elsewhere"""
        tokens, weights, weight = [], [], low
        for part in re.split(f"([{demo_tasks.ON}{demo_tasks.OFF}{demo_tasks.END}])", text):
            if part == demo_tasks.ON:
                weight = high
            elif part == demo_tasks.OFF:
                weight = low
            elif part:
                ids = [self.end] if part == demo_tasks.END else self.encode(part)
                tokens += ids
                weights += [weight] * len(ids)
        return tokens, weights
