#!/usr/bin/python3
"""What golden/task_claims.py measured, as tables (Markdown) and pictures."""
import math
import statistics
import subprocess

import claims_plan

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")  # Okabe and Ito
WAY_NAMES = {"one-a-token": "one token a step", "threshold": "threshold 0.9"}


class Score:
    """A policy's sums over problems, and dense attention's over the same problems."""

    def __init__(self):
        for name in claims_plan.FIELDS:
            setattr(self, name, 0)
        self.dense, self.texts = None, []

    def add(self, values):
        for name, value in zip(claims_plan.FIELDS, values):
            setattr(self, name, getattr(self, name) + value)
        self.texts.append(values[1] / values[0])  # the questions about one text

    @property
    def share(self):
        return self.right / self.problems

    @property
    def error(self):
        return math.sqrt(self.share * (1 - self.share) / self.problems)

    @property
    def error_by_texts(self):
        """Standard error that does not take questions about the same text for independent."""
        return statistics.stdev(self.texts) / math.sqrt(len(self.texts))

    def by_dense(self, name):
        whole = getattr(self.dense, name)
        return getattr(self, name) / whole if whole else math.nan


def merge(lines):
    """(seed, suite, block, way) -> policy -> Score. A problem counts once, however many jobs solved it."""
    seen, scores = set(), {}
    for line in lines:
        if "video" in line:
            continue
        cell = (line["seed"], line["suite"], line["block"], line["way"])
        for policy, values in line["results"].items():
            if (*cell, policy, line["first"]) in seen:
                continue
            seen.add((*cell, policy, line["first"]))
            score = scores.setdefault(cell, {}).setdefault(policy, Score())
            score.add(values)
            score.dense = score.dense or Score()
            score.dense.add(line["results"]["dense"])
    return scores


def percent(score, usual=None):
    """With the number of problems where it is not the usual one."""
    if not score:
        return ""
    return f"{100 * score.share:.1f} ± {100 * score.error:.1f}" + ("" if usual in (None, score.problems) else f" of {score.problems}")


def table(title, head, rows):
    rows = [row for row in rows if any(row[1:])]
    if rows:
        print(f"\n**{title}**\n\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


class Report:
    def __init__(self, results, times, seed):
        self.scores, self.times, self.seed = merge(results.values()), merge(times.values()), seed
        self.video = [line for line in results.values() if "video" in line]
        self.lines = [line for line in results.values() if "video" not in line]

    def of(self, suite, block, way, policy, seed=None):
        return self.scores.get((seed or self.seed, suite, block, way), {}).get(policy)

    def time_of(self, suite, block, way, policy):
        """Attention time by dense, of the quiet run."""
        score = self.times.get((self.seed, suite, block, way), {}).get(policy)
        return score.by_dense("seconds") if score else math.nan

    def problems(self, suite, block, way, policies):
        counts = sorted({s.problems for s in (self.of(suite, block, way, p) for p in policies) if s})
        return "0" if not counts else f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"

    # -------------------------------------------------------------------------------------- tables

    def dense(self):
        for way in claims_plan.WAYS:
            rows = []
            for suite in ("ledger-1k", "ledger-4k", "ledger-8k", "ledger-16k", "arithmetic", "sheet-1k", "sheet-4k", "hard-ledger-1k",
                          "hard-ledger-4k", "hard-arithmetic"):  # fmt: skip
                scores = [self.of(suite, b, way, "dense") for b in claims_plan.BLOCKS]
                rows.append([suite, *(f"{percent(s)} (of {s.problems})" if s else "" for s in scores)])
            table(f"dense, {WAY_NAMES[way]}: answers right, %", ["suite", *(f"blocks of {b}" for b in claims_plan.BLOCKS)], rows)

    def taus(self, suite, way):
        """Policies against block sizes. Where a policy was asked fewer problems than dense attention, its cell says how many."""
        names = ("dense", "tau:2", "tau:3", "tau:4", "tau:5", "tau:block", "never")
        if not any(self.of(suite, b, way, "tau:2") for b in claims_plan.BLOCKS):
            return
        head = ["policy"] + [f"blocks of {b} ({self.problems(suite, b, way, ['dense'])} problems)" for b in claims_plan.BLOCKS]
        rows = [[f"`{name}`", *(self.answers(suite, b, way, name) for b in claims_plan.BLOCKS)] for name in names]
        table(f"{suite}, {WAY_NAMES[way]}: answers right, %; (lost, won)", head, rows)

    def costs(self, suite, way):
        """Keys read and attention time, of dense attention's, against block sizes."""
        rows = []
        for name in ("tau:2", "tau:3", "tau:4", "tau:5", "tau:block", "never"):
            row = [f"`{name}`"]
            for block in claims_plan.BLOCKS:
                score, time = self.of(suite, block, way, name), self.time_of(suite, block, way, name)
                row.append(f"{score.by_dense('keys'):.2f}, {'' if math.isnan(time) else f'{time:.2f}'}" if score else "")
            rows.append(row)
        table(f"{suite}, {WAY_NAMES[way]}: keys read and attention time, of dense attention's",
              ["policy", *(f"blocks of {b}" for b in claims_plan.BLOCKS)], rows)  # fmt: skip

    def answers(self, suite, block, way, policy):
        score = self.of(suite, block, way, policy)
        if not score:
            return ""
        if policy == "dense":
            return percent(score)
        return f"{percent(score, self.of(suite, block, way, 'dense').problems)} ({score.lost}, {score.won})"

    def cell(self, suite, block, way, policies, seed=None, name="", same=False, shown=None):
        """Everything that is known of one cell, or of those that are shown. same: of the problems that all policies were asked."""
        scores = self.scores.get((seed or self.seed, suite, block, way), {})
        if same:
            scores = self.of_the_same(suite, block, way, policies)
        rows, dense = [], scores.get("dense")
        for policy in shown or policies:
            s = scores.get(policy)
            if not s:
                continue
            rows_computed = "" if "@" in policy else f"{s.by_dense('rows'):.2f}"
            time = self.time_of(suite, block, way, policy)
            rows.append([f"`{policy}`", percent(s, dense.problems), f"{s.lost}, {s.won}", f"{100 * s.equal / s.problems:.0f} %",
                         f"{100 * s.reused / s.steps:.0f} %", f"{s.by_dense('keys'):.2f}", rows_computed,
                         "" if math.isnan(time) else f"{time:.2f}"])  # fmt: skip
        seeds = "" if seed is None else f", seed {seed}"
        table(f"{name}{suite}, blocks of {block}, {WAY_NAMES[way]}{seeds}: {dense.problems if dense else 0} problems",
              ["policy", "right, %", "lost, won", "equal replies", "steps that reuse", "keys", "rows", "attention"], rows)  # fmt: skip

    def of_the_same(self, suite, block, way, policies):
        """policy -> Score of the problems that all of them were asked."""
        here = [line for line in self.lines if (line["seed"], line["suite"], line["block"], line["way"]) == (self.seed, suite, block, way)]
        asked = {}
        for line in here:
            for policy in line["results"]:
                asked.setdefault(policy, set()).add(line["first"])
        common = set.intersection(*(asked.get(policy, set()) for policy in policies))
        return merge(line for line in here if line["first"] in common).get((self.seed, suite, block, way), {})

    def errors(self):
        """Standard errors by texts, relative to those by problems, where a share is neither next to 0 nor next to 1."""
        ratios = {}
        for (_, suite, _, _), scores in self.scores.items():
            ratios.setdefault(suite, []).extend(s.error_by_texts / s.error for s in scores.values()
                                                if 0.05 < s.share < 0.97 and len(s.texts) >= 20)  # fmt: skip
        table("standard error by texts, relative to that by problems", ["suite", "tables' cells", "mean", "least", "most"],
              [[suite, str(len(r)), *(f"{f(r):.2f}" for f in (statistics.mean, min, max))] for suite, r in ratios.items() if r])  # fmt: skip

    def selectors(self):
        """Right answers for each density; then what a density costs."""
        head = ["selector", "alone", *(f"`{after}`" for after in claims_plan.AFTER[1:])]
        where = ("ledger-1k", 16, "one-a-token")
        for density in claims_plan.DENSITIES:
            names = {s: [f"{s}@{density}{after}" for after in claims_plan.AFTER] for s in claims_plan.SELECTORS}
            count = self.problems(*where, sum(names.values(), []))
            table(f"density {density} %, ledger-1k, blocks of 16, one token a step ({count} problems): answers right, %", head,
                  [[f"`{s}`", *(percent(self.of(*where, n)) for n in names[s])] for s in names])  # fmt: skip
        for density in claims_plan.DENSITIES:
            rows = []
            for selector in claims_plan.SELECTORS:
                scores = [(self.of(*where, n), self.time_of(*where, n)) for n in (f"{selector}@{density}{a}" for a in claims_plan.AFTER)]
                rows.append([f"`{selector}`", *(f"{s.by_dense('keys'):.2f}, {time:.2f}" if s else "" for s, time in scores)])
            table(f"density {density} %: keys read and attention time, of dense attention's", head, rows)

    def clips(self):
        if not self.video:
            return
        rows = []
        for i, way in enumerate(self.video[0]["ways"]):
            parts = [line["ways"][i] for line in self.video]
            n, equal = sum(p["clips"] for p in parts), sum(p["equal_to_dense"] for p in parts)
            name = "dense" if way["dense"] else f"{way['similarity_threshold']:g} | {way['lse_threshold']}"
            psnr = square = 0
            for p in parts:
                k = p["clips"] - p["equal_to_dense"]
                if k:
                    psnr += k * p["psnr_db"]
                    square += (p["psnr_standard_error"] or 0) ** 2 * k * (k - 1) + k * p["psnr_db"] ** 2
            k = n - equal
            mean = psnr / k if k else math.nan
            error = math.sqrt(max(square / k - mean**2, 0) / (k - 1)) if k > 1 else math.nan
            right, lost, won = (sum(p[f] for p in parts) for f in ("right", "lost", "won"))
            each = ", ".join(str(sum(p[f"right_{f}"] for p in parts)) for f in ("colour", "form", "place", "motion"))
            dense_time = sum(line["ways"][0]["attention_seconds"] for line in self.video)
            rows.append([name, f"{100 * parts[0]['heads_reused']:.1f} %", f"{right} of {n}", f"{lost}, {won}", each,
                         f"{mean:.1f} ± {error:.1f}", f"{sum(p['work_by_dense'] * p['clips'] for p in parts) / n:.3f}",
                         f"{sum(p['attention_seconds'] for p in parts) / dense_time:.2f}"])  # fmt: skip
        table("clips", ["thresholds", "heads that reuse", "right", "lost, won", "colour, form, place, motion", "PSNR", "work",
                        "time (busy)"], rows)  # fmt: skip

    def tables(self):
        one, threshold = claims_plan.WAYS
        self.dense()
        for suite in ("ledger-1k", "ledger-4k", "ledger-8k", "ledger-16k", "arithmetic", "hard-ledger-1k"):
            for way in (one, threshold):
                self.taus(suite, way)
        for suite in ("ledger-1k", "ledger-4k"):
            self.costs(suite, one)
        names = ("dense", "tau:1", "tau:2", "tau:3", "tau:4", "tau:5", "tau:block", "never", "tau:4+correction", "rows", "rows+correction")
        for suite in ("ledger-1k", "arithmetic", "hard-ledger-1k", "ledger-4k", "hard-ledger-4k", "sheet-1k", "ledger-8k", "ledger-16k",
                      "hard-arithmetic"):  # fmt: skip
            self.cell(suite, 16, one, names)
        for block in (4, 8, 32):
            self.cell("ledger-1k", block, one, names)
        for block in (16, 32):
            for suite in ("ledger-1k", "hard-ledger-1k"):
                self.cell(suite, block, threshold, names)
        self.selectors()
        tau = ("dense", *claims_plan.taus(16))
        selected = tuple(f"{s}@{d}{a}" for s in claims_plan.SELECTORS for d in claims_plan.DENSITIES for a in claims_plan.AFTER)
        self.cell("ledger-1k", 16, one, (*tau, *selected), name="without a selector, ", same=True, shown=tau)
        self.cell("hard-ledger-1k", 16, one, (*tau, *claims_plan.PICTURED), name="with selectors, ", same=True)
        for suite in ("ledger-1k", "hard-ledger-1k"):
            self.cell(suite, 16, one, names, claims_plan.OTHER_SEED)
        self.errors()
        self.clips()

    # ------------------------------------------------------------------------------------ pictures

    def points(self, suite, block, way, policies, x):
        """(x, right, error, label) of the policies that were measured."""
        made = []
        for policy in policies:
            score = self.of(suite, block, way, policy)
            if score:
                at = x(policy) if callable(x) else self.time_of(suite, block, way, policy) if x == "time" else score.by_dense(x)
                if not math.isnan(at):
                    made.append((at, 100 * score.share, 100 * score.error, label_of(policy)))
        return made

    def pictures(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        one = claims_plan.WAYS[0]
        tau = ("dense", "tau:2", "tau:3", "tau:4", "tau:5", "tau:block", "never")
        panels = []
        for suite in ("ledger-1k", "arithmetic", "hard-ledger-1k", "ledger-4k"):
            panels.append((f"{suite}, blocks of 16", [
                ("tau", self.points(suite, 16, one, tau, "time")),
                ("tau:4+correction", self.points(suite, 16, one, ["tau:4+correction"], "time")),
                ("rows", self.points(suite, 16, one, ["rows"], "time")),
                ("rows+correction", self.points(suite, 16, one, ["rows+correction"], "time"))]))  # fmt: skip
        draw(folder / "tau-time.png", panels, "attention time, dense = 1", "[0:1.15]")
        places = {name: i for i, name in enumerate(tau)}
        panels = [(suite, [(f"blocks of {b}", [(x, y, e, "") for x, y, e, _ in self.points(suite, b, one, tau, places.get)])
                           for b in claims_plan.BLOCKS]) for suite in ("ledger-1k", "arithmetic", "hard-ledger-1k", "ledger-4k")]  # fmt: skip
        draw(folder / "tau-blocks.png", panels, "tau", "[-0.3:6.3]", 'set xtics ("dense" 0, "2" 1, "3" 2, "4" 3, "5" 4, "block" 5, "never" 6)\n')
        families = [("tau", tau)] + [(f"{s}{a}", [f"{s}@{d}{a}" for d in (10, 20, 40)]) for s in ("sink_window", "quest", "mage")
                                     for a in ("", "+residual:4")]  # fmt: skip
        panels = [(title, [(n, self.points("hard-ledger-1k", 16, one, p, x)) for n, p in families])
                  for title, x in (("against attention time", "time"), ("against keys read", "keys"))]  # fmt: skip
        draw(folder / "hard-ledger-1k-b16.png", panels, "time of attention, or keys read; dense = 1", "[0:1.5]")
        panels = []
        for after, title in (("", "alone"), ("+residual:4", "residual, tau 4"), ("+residual:once", "residual, once a block"),
                             ("+residual:once+sparse-first", "residual, once a block, sparse first step")):  # fmt: skip
            panels.append((title, [(s, [(x, y, e, "") for x, y, e, _ in self.points(
                "ledger-1k", 16, one, [f"{s}@{d}{after}" for d in claims_plan.DENSITIES], density_of)]) for s in claims_plan.SELECTORS]))  # fmt: skip
        draw(folder / "selectors.png", panels, "density, %", "[0:43]")


def density_of(policy):
    return float(policy.split("@")[1].split("+")[0])


def label_of(policy):
    return f"{density_of(policy):g}%" if "@" in policy else policy.removeprefix("tau:")


def draw(path, panels, x_label, x_range, more=""):
    """Panels side by side: (title, curves), curves: (name, points)."""
    script = [f"set terminal pngcairo size {430 * min(len(panels), 2) + 190},{360 * math.ceil(len(panels) / 2)} font 'DejaVu Sans,10'",
              f"set output '{path}'", "set border 3 lw 1.2", "set tics nomirror out", "set grid back lw 0.6 lc rgb '#dddddd'",
              f"set multiplot layout {math.ceil(len(panels) / 2)},{min(len(panels), 2)}", "set key outside right top Left reverse noenhanced",
              f"set xlabel '{x_label}'", "set ylabel 'answers right, %'", "set yrange [-3:106]", f"set xrange {x_range}", more]  # fmt: skip
    for number, (title, curves) in enumerate(panels):
        plots = []
        for i, (name, points) in enumerate(curves):
            if not points:
                continue
            data, colour = f"$d{number}_{i}", COLOURS[i % len(COLOURS)]
            script.append(f"{data} << END\n" + "\n".join(f'{x:.4f} {y:.4f} {e:.4f} "{label}"' for x, y, e, label in points) + "\nEND")
            plots.append(f"{data} using 1:2:3 with yerrorlines lw 1.6 pt {7 if i < 8 else 5} ps 0.8 lc rgb '{colour}' title '{name}'")
            plots.append(f"{data} using 1:2:4 with labels left offset 0.4,-0.6 font ',8' textcolor rgb '{colour}' noenhanced notitle")
        script.append(f"set title '{title}' noenhanced\nplot " + ", ".join(plots) if plots else "")
    subprocess.run(["gnuplot", "-"], input="\n".join(script).encode() + b"\n", check=True)

