"""Windows of rows to train golden/demo-model on: documents side by side, clean rows first, noisy blocks after them.

A diffusion window holds each document once as it is (clean), and blocks of it in which some tokens are masked
(noisy): many where a token counts, few elsewhere. A clean row sees its document up to the end of its own block. A noisy
row sees the clean rows before its block, and its own noisy block. That is what decoding sees: finished blocks in the
cache, and one unfinished block. An autoregressive window holds clean rows only, and the target is the next token.

One rule covers all of it. Row q sees row k if start[q] <= k < limit[q], or if own[q] == of[k].
"""
import math
import random

import numpy as np

import demo_tasks
import demo_text

FIELDS = ("ids", "positions", "start", "limit", "own", "of", "targets")
ALIGN = 32  # rows: every document begins at a multiple, so that no block of up to 32 straddles a tile of attention

# Weights of a token's loss: what nobody can predict, predictable words of a ledger, prose, a reply.
LOW, SPAN, PROSE, REPLY = 0.1, 0.5, 0.5, 1.0


class Schedule:
    """What is drawn at which progress (0 to 1)."""

    LENGTHS = ((0.02, 256), (0.05, 512), (0.12, 1024), (0.24, 2048), (0.42, 4096), (0.60, 8192), (2.0, 16384))
    AUTOREGRESSIVE = ((0.0, 0.05, 0.12, 1.0), (0.5, 0.4, 0.05, 0.02))  # share of the windows, at progress
    KINDS = dict(ledger=0.44, problems=0.19, sheet=0.19, prose=0.18)  # shares of the clean rows
    BLOCKS = (4, 8, 16, 32)
    EARLY_SHARES, LATE_SHARES, LATE = (0.40, 0.20, 0.20, 0.20), (0.20, 0.20, 0.28, 0.32), 0.35
    ALL_MASKED, TAIL_MASKED = 0.35, 0.30  # shares of the noisy blocks wholly masked, and masked from a place on
    MOST_COPIES = 3.0  # noisy ones of a block
    MOST_DROPPED = 0.3  # share of the words of prose that a reader does not see; without it the text is learnt by heart

    @classmethod
    def longest(cls, progress):
        return next(length for until, length in cls.LENGTHS if progress < until)

    @classmethod
    def autoregressive(cls, progress):
        return float(np.interp(progress, *cls.AUTOREGRESSIVE))

    @classmethod
    def block_shares(cls, progress):
        return cls.EARLY_SHARES if progress < cls.LATE else cls.LATE_SHARES


class Documents:
    """Documents as (tokens, weights)."""

    def __init__(self, tokenizer, prose, seed):
        self.tokenizer, self.rng = tokenizer, random.Random(seed)
        self.verses = demo_text.verses_of(prose)
        self.prose_tokens = tokenizer.encode(prose)

    def ledger(self, room):
        """A ledger, and a quarter to a half of the room for questions."""
        rng, tokenizer = self.rng, self.tokenizer
        body = room * (1 - rng.uniform(0.25, 0.5))
        share = rng.choice((0, 0, 0.1, 0.3))
        sentence = 14.5 * (1 - share) + 32 * share  # tokens
        for _ in range(8):
            ledger = demo_tasks.Ledger(rng, max(4, int(body / sentence)), demo_tasks.TRAIN, self.verses, share)
            tokens, weights = tokenizer.weighted(ledger.text, LOW, SPAN)
            if len(tokens) < 0.9 * room:
                break
            body *= 0.8
        asked = set()
        for _ in range(1000):
            question = ledger.question()
            if question is None or question.text in asked:
                if rng.random() < 0.05:
                    break
                continue
            asked.add(question.text)
            if not self.append(tokens, weights, room, demo_tasks.ask(question), demo_tasks.reply(question)):
                break
        return tokens, weights

    def append(self, tokens, weights, room, prompt, reply):
        """Add a prompt and its reply, unless there is no room."""
        text = f"{prompt}{demo_tasks.ON}{reply}{demo_tasks.END}{demo_tasks.OFF}\n"
        more, their_weights = self.tokenizer.weighted(text, LOW, REPLY)
        if tokens and len(tokens) + len(more) > room:
            return False
        tokens += more
        weights += their_weights
        return True

    def steps(self):
        return self.rng.choice((2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10))

    def problems(self, room):
        """One problem after the other, each solved at once."""
        tokens, weights = [], []
        while True:
            problem = demo_tasks.Problem(self.rng, self.steps(), demo_tasks.TRAIN)
            if not self.append(tokens, weights, min(room, 640), problem.prompt(), problem.reply()):
                return tokens, weights

    def sheet(self, room):
        """Many problems first, then some of them solved, in any order."""
        rng, problems, tokens, weights = self.rng, [], [], []
        names = rng.sample(demo_tasks.NAMES, len(demo_tasks.NAMES))
        body = room * rng.uniform(0.35, 0.6)
        while names:
            problem = demo_tasks.Problem(rng, self.steps(), demo_tasks.TRAIN, names.pop())
            more = self.tokenizer.encode(demo_tasks.sheet_line(problem))
            if problems and len(tokens) + len(more) > body:
                break
            problems.append(problem)
            tokens += more
            weights += [LOW] * len(more)
        for problem in rng.sample(problems, len(problems)):
            if not self.append(tokens, weights, room, demo_tasks.sheet_question(problem), problem.reply()):
                break
        return tokens, weights

    def prose(self, room):
        start = self.rng.randrange(len(self.prose_tokens) - room)
        return self.prose_tokens[start : start + room], [PROSE] * room


class Packer:
    def __init__(self, documents, rows, longest, seed):
        """`rows` a window; `longest` bounds the documents, whatever the schedule says."""
        self.documents, self.rows, self.longest = documents, rows, min(longest, rows // 2)
        self.rng, self.numpy = random.Random(seed), np.random.default_rng(seed)
        self.end, self.mask = documents.tokenizer.end, documents.tokenizer.mask
        self.used = dict.fromkeys(Schedule.KINDS, 0)  # clean rows so far

    def length(self, longest):
        """Up to 4096 often near the longest, else log-uniform; beyond, rows spread evenly over sqrt(length)."""
        rng, shortest = self.rng, min(128, longest)
        if longest > 4096 and rng.random() < 0.97:
            a, b = shortest**-0.5, longest**-0.5
            length = rng.uniform(a, b) ** -2
        elif rng.random() < 0.5 or longest > 4096:
            length = longest * rng.uniform(0.6, 1)
        else:
            length = math.exp(rng.uniform(math.log(shortest), math.log(longest)))
        return max(ALIGN, int(length) // ALIGN * ALIGN)

    def document(self, room, progress):
        """(tokens, weights, tokens as the reader sees them)"""
        longest = min(room, self.longest, Schedule.longest(progress))
        total = sum(self.used.values()) + 1
        kind = max(self.used, key=lambda k: Schedule.KINDS[k] * total - self.used[k])  # the one that lacks most
        kind = "prose" if longest < 96 else kind
        tokens, weights = getattr(self.documents, kind)(self.length(longest))
        self.used[kind] += len(tokens)
        seen = tokens
        if kind == "prose":
            dropped = self.numpy.random(len(tokens)) < self.numpy.random() * Schedule.MOST_DROPPED
            seen = np.where(dropped, self.mask, tokens).tolist()
        return tokens[:room], weights[:room], seen[:room]

    def clean(self, room, progress):
        """Documents that fill at most `room` rows: (ids, weights, document's first row, position, block size, seen)"""
        columns = [], [], [], [], [], []
        ids, weights, first, positions, blocks, seen = columns
        while room - len(ids) >= ALIGN:
            tokens, their_weights, their_seen = self.document(room - len(ids), progress)
            n = -(-len(tokens) // ALIGN) * ALIGN
            first += [len(ids)] * n
            positions += range(n)
            blocks += self.rng.choices(Schedule.BLOCKS, Schedule.block_shares(progress)) * n
            ids += tokens + [self.end] * (n - len(tokens))
            seen += their_seen + [self.end] * (n - len(tokens))
            weights += their_weights + [LOW] * (n - len(tokens))
        return [np.array(c, np.float32 if c is weights else np.int32) for c in columns]

    def window(self, progress):
        """(fields [7, rows] int32, weights [rows] float32, block size of the targets [rows] int32; 1: next token)"""
        fields = np.zeros((len(FIELDS), self.rows), np.int32)
        ids, positions, start, limit, own, of, targets = fields
        weights, sizes = np.zeros(self.rows, np.float32), np.ones(self.rows, np.int32)
        row = np.arange(self.rows)
        ids[:], own[:], of[:] = self.end, row, row  # rows that stay unused see themselves
        autoregressive = self.rng.random() < Schedule.autoregressive(progress)
        room = self.rows if autoregressive else self.rows // 2
        tokens, their_weights, first, place, block, seen = self.clean(room, progress)
        n = len(tokens)
        ids[:n], positions[:n], start[:n], own[:n], of[:n] = seen, place, first, -1, -2
        if autoregressive:
            limit[:n] = row[:n] + 1
            targets[: n - 1] = tokens[1:]
            weights[: n - 1] = their_weights[1:] * (first[1:] == first[:-1])
            return fields, weights, sizes
        limit[:n] = first + (place // block + 1) * block
        at = n
        for size, chosen in self.noisy_blocks(their_weights, block, self.rows - n):
            hidden = self.hidden(len(chosen), size).ravel()
            source = (chosen[:, None] + np.arange(size)).ravel()
            rows = slice(at, at + len(source))
            ids[rows] = np.where(hidden, self.mask, tokens[source])
            positions[rows], start[rows], limit[rows] = place[source], first[source], np.repeat(chosen, size)
            own[rows] = of[rows] = np.repeat(at + size * np.arange(len(chosen)), size)
            targets[rows], weights[rows], sizes[rows] = tokens[source], their_weights[source] * hidden, size
            at += len(source)
        return fields, weights, sizes

    def noisy_blocks(self, weights, block, room):
        """[(size, first rows of the blocks chosen)], largest first: then each begins at a multiple of its size.

        A block gets copies in proportion to its mean weight, at most MOST_COPIES."""
        starts, score = [], []
        for size in sorted(Schedule.BLOCKS, reverse=True):
            heads = np.flatnonzero(block == size)[::size]
            starts.append(heads)
            score.append(np.maximum(weights[heads[:, None] + np.arange(size)].mean(1), 0.03))
        sizes = np.repeat(sorted(Schedule.BLOCKS, reverse=True), [len(s) for s in starts])
        starts, expected = np.concatenate(starts), np.concatenate(score)
        for _ in range(5):
            expected = np.minimum(expected * (room / (expected * sizes).sum()), Schedule.MOST_COPIES)
        edges = np.floor(np.cumsum(expected) + self.numpy.random()).astype(np.int64)
        chosen = np.repeat(np.arange(len(starts)), np.diff(edges, prepend=0))
        # Some too many: drop random ones.
        chosen = self.numpy.permutation(chosen)
        chosen = np.sort(chosen[np.cumsum(sizes[chosen]) <= room])
        return [(size, starts[chosen[sizes[chosen] == size]]) for size in sorted(Schedule.BLOCKS, reverse=True)]

    def hidden(self, count, size):
        """[count, size] bool: the tokens of noisy blocks that are masked; at least one of each."""
        share = np.maximum(self.numpy.random((count, 1)), 0.05)
        hidden = self.numpy.random((count, size)) < share
        how = self.numpy.random((count, 1))
        tail = np.arange(size) >= self.numpy.integers(0, size, (count, 1))
        hidden = np.where(how < Schedule.ALL_MASKED + Schedule.TAIL_MASKED, tail, hidden)
        hidden |= how < Schedule.ALL_MASKED
        hidden[~hidden.any(1), -1] = True
        return hidden
