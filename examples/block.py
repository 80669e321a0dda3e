#!/usr/bin/python3
"""block.py: FlashBlock on a CPU, from Python. One layer of a block that is denoised in several steps: a refresh
computes the attention to the committed tokens and keeps it, a reuse takes it.

Nothing but Python is needed. From a checkout: PYTHONPATH=python python3 examples/block.py
"""
import flashblock

sequence = flashblock.Sequence("tiny", context=500, dtype="f32")  # a script: inputs of each step, and what it does
o = sequence.options
block = flashblock.block(
    num_heads=o.num_heads, num_kv_heads=o.num_kv_heads, head_dim=o.head_dim, block_size=o.block_size, layout="THD"
)
block.extend(sequence.context_k, sequence.context_v)
print(f"{block.length} committed tokens, a block of {o.block_size}")

for step in sequence:
    if step.action == "reuse":
        out, lse = block.reuse(step.q, step.k, step.v)
    else:
        out, lse = block.refresh(step.q, step.k, step.v, store=step.action == "refresh+store")
    print(f"step {step.index}: {step.action:13}  out[0, 0, 0] = {out[0, 0, 0]:9.6f}  lse[0, 0] = {lse[0, 0]:.6f}")

block.extend(step.k, step.v)  # the finished block is committed: the next one begins
print(f"{block.length} committed tokens")
try:
    block.reuse(step.q, step.k, step.v)
except flashblock.StaleError as error:
    print(f"a reuse is now an error: {error}")
