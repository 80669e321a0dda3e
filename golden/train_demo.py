#!/usr/bin/python3
"""Make golden/demo-model from nothing: a small block-diffusion language model of the SDAR architecture.

    train_demo.py prepare              text of Debian's bible-kjv package, and the tokenizer
    train_demo.py train --seconds 1050 train; stop and start at will, it resumes from its checkpoint
    train_demo.py export DIR           write a Hugging Face directory: config, bf16 weights, tokenizer
    train_demo.py evaluate DIR         right answers on held-out problems, and the loss on held-out prose

Every stage keeps its files in --work (default: ./demo-train). PyTorch and NumPy are needed; `prepare` also needs the
Debian package bible-kjv. On a GPU, training wants PyTorch 2.5 or later, and 10 or more CPU cores that make the
documents. `torchrun --nproc-per-node N golden/train_demo.py train ...` uses N GPUs. Without a GPU it runs in f32 on
the CPU, some hundred times slower: choose smaller --rows and --longest.

demo_tasks.py makes the problems, demo_suites.py those held out, demo_text.py reads the prose and makes the tokenizer, demo_windows.py lays documents
out as training windows, demo_network.py is the network.

How the model is trained
  1. At first half of the windows are autoregressive (every token is a training signal), and documents are short: the
     network learns to look facts up. Both fade within an eighth of the time.
  2. Block diffusion: the score at a masked position predicts the token at that same position.
  3. Documents grow to 16,384 tokens, and blocks of 16 and 32 get the larger share.
  Matrices are trained by Muon, the embedding and the norms by Adam. The rate falls to zero from 40 % of the time on.
"""
import argparse
import json
import math
import multiprocessing
import os
import pathlib
import queue
import sys
import threading
import time

import numpy as np
import torch
import torch.distributed as dist

import demo_network
import demo_suites
import demo_tasks
import demo_text
import demo_windows
from muon import Muon

MUON_RATE = 0.02
ADAM_RATE = 3e-3
WEIGHT_DECAY = 0.1
WARMUP_SHARE = 0.01  # of the time: the rate rises from nearly 0
DECAY_FROM = 0.4  # of the time: the rate falls linearly to 0 from here on
CHECK_EVERY = 20  # steps: is the loss finite, what time is it

def rate_at(progress):
    return max(0.0, min(1, progress / WARMUP_SHARE + 0.02, (1 - progress) / (1 - DECAY_FROM)))


# ----------------------------------------------------------------------------------------------------- data


def make_windows(out, progress, work, rows, longest, seed):
    """A worker process: windows for ever."""
    os.nice(5)
    torch.set_num_threads(1)
    tokenizer = demo_text.Tokenizer(work / "tokenizer.json")
    documents = demo_windows.Documents(tokenizer, (work / "text.txt").read_text(), seed)
    packer = demo_windows.Packer(documents, rows, longest, seed)
    while True:
        out.put(packer.window(progress.value))


class Batches:
    """Windows made by worker processes, a batch at a time on the device. The processes are forked before anything
    touches the GPU."""

    def __init__(self, args, seed):
        self.progress = multiprocessing.Value("d", 0.0)
        self.windows, self.count = multiprocessing.Queue(maxsize=8 * args.windows), args.windows
        self.workers = [
            multiprocessing.Process(
                target=make_windows,
                args=(self.windows, self.progress, args.work, args.rows, args.longest, seed + i),
                daemon=True,
            )
            for i in range(args.workers)
        ]
        for worker in self.workers:
            worker.start()

    def begin(self, device):
        self.device, self.ready = device, queue.Queue(maxsize=3)
        threading.Thread(target=self.stage, daemon=True).start()

    def stage(self):
        while True:
            drawn = [self.windows.get() for _ in range(self.count)]
            batch = (
                torch.from_numpy(np.stack([w[0] for w in drawn], 1)),
                torch.from_numpy(np.stack([w[1] for w in drawn])),
                torch.from_numpy(np.stack([w[2] for w in drawn])),
            )
            self.ready.put(tuple(x.pin_memory() if self.device.type == "cuda" else x for x in batch))

    def next(self):
        """(fields by name [windows, rows], weights, block sizes)"""
        fields, weights, sizes = (x.to(self.device, non_blocking=True) for x in self.ready.get())
        fields = dict(zip(demo_windows.FIELDS, fields))
        fields["ids"], fields["targets"] = fields["ids"].long(), fields["targets"].long()
        return fields, weights, sizes


# ------------------------------------------------------------------------------------------------ evaluation


def right_answers(model, tokenizer, suite, block, threshold=0.9):
    """(share of right answers, steps a token, [(problem, text)] of the wrong ones)"""
    asked = [(s["text"] + q["prompt"], q) for s in suite for q in s["questions"]]
    prompts = [tokenizer.encode(text) for text, _ in asked]
    at_once = max(1, min(64, 20000 // max(map(len, prompts))))
    replies, steps = demo_network.generate(model, prompts, 260, block, threshold, at_once)
    texts = [tokenizer.decode(reply) for reply in replies]
    wrong = [(q, text) for (_, q), text in zip(asked, texts) if demo_tasks.right_answer(text) != q["answer"]]
    return 1 - len(wrong) / len(asked), steps, wrong


@torch.no_grad()
def held_out_prose(model, tokenizer, text, block, context=512, seed=1234):
    """(nats a masked token, share of masked tokens right). Each block draws t ~ U(0, 1), at least 0.05, and each of its
    tokens is masked with probability t. Contexts that do not overlap."""
    device = model.embed_tokens.device
    ids = torch.tensor(tokenizer.encode(text))
    generator = torch.Generator().manual_seed(seed)
    row = torch.arange(context)
    loss = right = count = 0.0
    for s in range(0, len(ids) - context, context):
        clean = ids[s : s + context]
        share = torch.rand(context // block, generator=generator).clamp(0.05, 1).repeat_interleave(block)
        masked = torch.rand(context, generator=generator) < share
        noisy = torch.where(masked, torch.tensor(tokenizer.mask), clean)
        fields = dict(ids=torch.cat((clean, noisy)), positions=torch.cat((row, row)),
                      start=torch.zeros(2 * context, dtype=torch.long),
                      limit=torch.cat(((row // block + 1) * block, row // block * block)),
                      own=torch.cat((row * 0 - 1, context + row // block)),
                      of=torch.cat((row * 0 - 2, context + row // block)), targets=torch.cat((clean, clean)))  # fmt: skip
        weights = torch.cat((torch.zeros(context), masked.float()))[None].to(device)
        _, each, hit = model(**{k: v[None].to(device) for k, v in fields.items()}, weights=weights)
        loss += float((each * weights).sum())
        right += float((hit * weights).sum())
        count += float(weights.sum())
    return loss / count, right / count


def evaluate_all(model, args, say, count, blocks, seconds, cells=None):
    """Say what share of the answers is right, cell by cell, until the time is over."""
    begun = time.monotonic()
    tokenizer = demo_text.Tokenizer(args.work / "tokenizer.json")
    prose = (args.work / "held-out.txt").read_text()
    losses = [held_out_prose(model, tokenizer, prose, block) for block in (4, 16)]
    say("held-out prose, blocks 4 and 16: " + ", ".join(f"{a:.3f} nats, {100 * b:.1f} % right" for a, b in losses))
    verses = demo_text.verses_of(prose)

    def counts(name):
        return 0 if cells and name not in cells else count // 4 if name.endswith(("8k", "16k")) else count

    for name, suite in demo_suites.suites(tokenizer, verses, 901, counts):
        for block in blocks:
            if time.monotonic() - begun > seconds:
                return
            share, steps, wrong = right_answers(model, tokenizer, suite, block)
            asked = sum(len(s["questions"]) for s in suite)
            say(f"{name:16s} block {block:2d}: {100 * share:5.1f} % of {asked} right, {steps:.2f} steps a token")
            for question, text in wrong[:2]:
                say(f"    {question['prompt']!r} wanted {question['reply']!r} got {text!r}")


# -------------------------------------------------------------------------------------------------- training


class Running:
    """Sums of loss and right rows, for the log: next token, blocks of 4, larger ones; and replies alone."""

    def __init__(self):
        self.sums = {}

    def add(self, loss, right, weights, sizes):
        for name, chosen in (("next", sizes == 1), ("b4", sizes == 4), ("b8", sizes == 8), ("b16+", sizes > 8)):
            for kind, some in (("", weights > 0), (" reply", weights > 0.9)):
                some = chosen & some
                sums = torch.stack(((loss * some).sum(), (right * some).sum(), some.sum().float()))
                self.sums[name + kind] = self.sums.get(name + kind, 0) + sums

    def line(self):
        parts = []
        for name, sums in self.sums.items():
            loss, right, count = sums.tolist()
            if count:
                parts.append(f"{name} {loss / count:.3f}/{100 * right / count:.1f}%")
        self.sums = {}
        return "  ".join(parts)


def train(args):
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    checkpoint = args.work / "checkpoint.pt"
    state = torch.load(checkpoint, map_location="cpu") if checkpoint.exists() else None
    elapsed, step = (state["elapsed"], state["step"]) if state else (0.0, 0)
    # Other documents after every resumption.
    batches = Batches(args, 10_000_000 * args.seed + 1_000_000 * rank + 100 * (step % 9973))
    device = torch.device("cpu")
    if torch.cuda.is_available() and not args.cpu:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    batches.begin(device)
    log = open(args.work / "train.log", "a") if rank == 0 else None
    born = time.monotonic()

    def say(line):
        if rank == 0:
            line = f"[{time.monotonic() - born:6.1f}] {line}"
            print(line, flush=True)
            print(line, file=log, flush=True)

    torch.manual_seed(args.seed)
    model = demo_network.Model(demo_network.CONFIG | json.loads(args.config)).to(device)
    compiled = device.type == "cuda"
    run = torch.compile(model, dynamic=False) if compiled else model
    matrices = [w for n, w in model.named_parameters() if w.dim() == 2 and n != "embed_tokens"]
    vectors = [w for w in model.parameters() if w.dim() == 1]
    muon = Muon(matrices, MUON_RATE, weight_decay=WEIGHT_DECAY)
    adam = torch.optim.AdamW(
        [dict(params=[model.embed_tokens], weight_decay=WEIGHT_DECAY), dict(params=vectors, weight_decay=0.0)],
        lr=ADAM_RATE,
        betas=(0.9, 0.95),
        **(dict(fused=True) if compiled else {}),
    )
    optimizers = [(muon, MUON_RATE), (adam, ADAM_RATE)]
    if state:
        model.load_state_dict(state["model"])
        for (optimizer, _), saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        batches.progress.value = elapsed / args.seconds
        say(f"resumed at step {step}, {elapsed:.0f} s")
    else:
        say(f"{sum(w.numel() for w in model.parameters())} parameters, {world} processes, {vars(args)}")

    def save():
        if rank == 0:
            saved = [optimizer.state_dict() for optimizer, _ in optimizers]
            state = dict(model=model.state_dict(), optimizers=saved, elapsed=elapsed, step=step)
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").rename(checkpoint)  # an interruption leaves one whole file

    running = Running()

    def average_gradients():
        grads = [w.grad for w in model.parameters()]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= world
        for g, part in zip(grads, flat.split([g.numel() for g in grads])):
            g.copy_(part.view_as(g))

    def train_step(progress):
        fields, weights, sizes = batches.next()
        mask = demo_network.block_mask(*(fields[k] for k in ("start", "limit", "own", "of"))) if compiled else None
        loss, each, right = run(**fields, weights=weights, mask=mask)
        loss.backward()
        if world > 1:
            average_gradients()
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_at(progress)
            optimizer.step()
        for weight in model.parameters():
            weight.grad = None
        running.add(each, right, weights, sizes)
        return loss.detach()

    def agree(loss, now):
        """Everybody's view: (is every loss finite, rank 0's clock)"""
        view = torch.tensor([now if rank == 0 else 0.0, 0.0 if math.isfinite(float(loss)) else 1.0], device=device)
        if world > 1:
            dist.all_reduce(view)
        clock, bad = view.tolist()
        return bad == 0, clock

    # The first step compiles; its time does not count.
    loss = train_step(elapsed / args.seconds)
    agree(loss, 0.0)
    say("first step done")
    last_check = last_report = time.monotonic()
    report_step, next_save, next_look = step, elapsed + args.save_every, elapsed + args.look_every
    while elapsed < args.seconds and step < args.steps:
        progress = elapsed / args.seconds
        batches.progress.value = progress
        loss = train_step(progress)
        step += 1
        if step % CHECK_EVERY and step < args.steps:
            continue
        fine, elapsed = agree(loss, elapsed + time.monotonic() - last_check)
        last_check = time.monotonic()
        if not fine:
            say(f"step {step}: the loss is not finite; stopped. The checkpoint is of before.")
            stop(batches, 3)
        if step % args.report_every == 0:
            now = time.monotonic()
            pace = (now - last_report) / (step - report_step)
            say(
                f"{elapsed:6.1f} s  step {step}  longest {demo_windows.Schedule.longest(progress)}  {1000 * pace:.1f} ms a step  "
                f"ready {batches.ready.qsize()}  {running.line()}"
            )
            last_report, report_step = now, step
        if elapsed >= next_save:
            save()
            next_save = elapsed + args.save_every
            last_check = time.monotonic()
        if elapsed >= next_look:
            if rank == 0:
                demo_network.export(model, args.work / "model", args.work / "tokenizer.json")
                evaluate_all(model, args, say, 40, (16,), 30, ("ledger-1k", "ledger-4k", "ledger-8k", "arithmetic", "sheet-4k"))
            if world > 1:
                dist.barrier()
            next_look = elapsed + args.look_every
            last_check = last_report = time.monotonic()
    save()
    if rank == 0:
        demo_network.export(model, args.work / "model", args.work / "tokenizer.json")
        say(f"{elapsed:.0f} s  step {step}  done")
        evaluate_all(model, args, say, args.evaluate_count, (4, 16, 32), args.evaluate_seconds)
        (args.work / "done").write_text("done\n")
    stop(batches, 0)


def stop(batches, status):
    """Leave at once: workers wait in a full queue, and threads for them."""
    for worker in batches.workers:
        worker.kill()
    sys.stdout.flush()
    os._exit(status)


# ---------------------------------------------------------------------------------------------- command line


def prepare(args):
    demo_text.prepare(args.work)


def export(args):
    state = torch.load(args.work / "checkpoint.pt", map_location="cpu")
    model = demo_network.Model(demo_network.CONFIG | json.loads(args.config))
    model.load_state_dict(state["model"])
    demo_network.export(model, args.directory, args.work / "tokenizer.json")
    print(f"step {state['step']}, {state['elapsed']:.0f} s")


def evaluate(args):
    model = demo_network.load(args.directory)
    if torch.cuda.is_available() and not args.cpu:
        model = model.cuda()
    evaluate_all(model, args, print, args.count, args.blocks, args.limit)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--work", type=pathlib.Path, default="demo-train", help="folder of intermediate files")
    common.add_argument("--cpu", action="store_true", help="no GPU, though there is one")
    common.add_argument("--config", default="{}", help="changes of the network's configuration, JSON")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(function, text):
        sub = commands.add_parser(function.__name__, parents=[common], help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    command(prepare, "write text.txt, held-out.txt and tokenizer.json")
    sub = command(train, "train, or resume training; writes checkpoint.pt, train.log and model/")
    sub.add_argument("--seconds", type=float, default=1050, help="time the whole schedule takes (1050)")
    sub.add_argument("--steps", type=int, default=1 << 40, help="stop after so many")
    sub.add_argument("--windows", type=int, default=2, help="a step and GPU (2)")
    sub.add_argument("--rows", type=int, default=32768, help="of a window (32768)")
    sub.add_argument("--longest", type=int, default=16384, help="tokens of a document (16384)")
    sub.add_argument("--workers", type=int, default=12, help="processes a GPU that make windows (12)")
    sub.add_argument("--seed", type=int, default=1)
    sub.add_argument("--report-every", type=int, default=200, metavar="STEPS")
    sub.add_argument("--save-every", type=float, default=60, metavar="SECONDS")
    sub.add_argument("--look-every", type=float, default=300, metavar="SECONDS", help="evaluate a little (300)")
    sub.add_argument("--evaluate-count", type=int, default=120, help="problems of a cell in the end (120)")
    sub.add_argument("--evaluate-seconds", type=float, default=90, help="for the evaluation in the end (90)")
    sub = command(export, "write the checkpoint as a Hugging Face directory")
    sub.add_argument("directory", type=pathlib.Path)
    sub = command(evaluate, "right answers of a Hugging Face directory on held-out problems")
    sub.add_argument("directory", type=pathlib.Path)
    sub.add_argument("--count", type=int, default=100, help="problems of a cell (100)")
    sub.add_argument("--blocks", type=int, nargs="+", default=[4, 8, 16, 32])
    sub.add_argument("--limit", type=float, default=1e9, metavar="SECONDS", help="begin nothing after so long")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.function(args)


if __name__ == "__main__":
    main()
