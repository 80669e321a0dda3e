#!/usr/bin/env python3
"""trajectory.py MODEL [RECORD]: a port of the whole decoding in NumPy (sdar.py has its model). It writes down what it
decides, and has it judged. docs/trajectory.md says what the verdict means."""
import pathlib
import sys

import flashblock
import numpy as np
from sdar import Model

PROMPT, BLOCK, TAU, THRESHOLD, TOKENS = [11, 7, 40, 3, 25, 8, 30], 4, 2, 0.9, 16


def probabilities(logits, mask):
    logits[:, mask] = -np.inf
    return np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True))


def choose(confidence, masked):
    """All masked positions above the threshold; the most confident one if there is none."""
    above = masked[confidence[masked] > THRESHOLD]
    return above if len(above) else masked[[confidence[masked].argmax()]]


def decode(model, record):
    mask, whole, done = model.c["mask_token_id"], len(PROMPT) - len(PROMPT) % BLOCK, []
    rows = np.arange(whole) // BLOCK
    model.commit(PROMPT[:whole], rows[:, None] >= rows)
    left = PROMPT[whole:]
    for block in range((len(left) + TOKENS + BLOCK - 1) // BLOCK):
        ids, masked, dirty, step = np.array(left + [mask] * (BLOCK - len(left))), np.arange(len(left), BLOCK), 0, 0
        while len(masked):
            action = "reuse" if step and dirty < TAU else "refresh"
            logits, hidden = model.forward(ids, action)
            p = probabilities(logits, mask)
            tokens, confidence = p.argmax(-1), p.max(-1)
            accepted = choose(confidence, masked)
            record.step(block, step, before=ids, proposed=tokens, confidence=confidence, accepted=accepted,
                        action=action, hidden=hidden)  # fmt: skip
            ids[accepted] = tokens[accepted]
            masked = np.setdiff1d(masked, accepted)
            dirty = len(accepted) + (dirty if action == "reuse" else 0)
            step += 1
        model.commit(ids)
        record.commit(block, before=ids, action="refresh")
        done += ids[len(left) :].tolist()
        left = []
    record.end("length", done[:TOKENS])


if __name__ == "__main__":
    folder, path = pathlib.Path(sys.argv[1]), (sys.argv[2:] or ["run.jsonl"])[0]
    options = {"block_size": BLOCK, "tau": TAU, "confidence_threshold": THRESHOLD, "max_tokens": TOKENS}
    record = flashblock.TrajectoryWriter(path, precision="f32", prompt=PROMPT, ignore_stop=True, **options)
    decode(Model(folder), record)
    print(flashblock.check_trajectory(record, model=folder).text, end="")
