#!/usr/bin/python3
"""test_video_cli.py PROGRAM MODEL_DIR: runs `flashblock calibrate`, `flashblock video` and `flashblock eval video`.
Prints TAP.

Clips are a few frames of the model in MODEL_DIR, made with one thread: small passes gain nothing from
more.
"""
import contextlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

from case_support import Skipped, case, expect, expect_equal, expect_error, run_cases

PROGRAM = sys.argv[1]
MODEL = pathlib.Path(sys.argv[2])
CONFIG = json.loads((MODEL / "config.json").read_text())
LAYERS, HEADS = CONFIG["num_layers"], CONFIG["num_heads"]
STEPS = len(CONFIG["denoising_step_list"]) + 1
SIZE = CONFIG["frame_height"]


def long_case(function):
    """A case that a sample of the tests leaves out (tests/meson.build)."""
    return function if os.environ.get("FLASHBLOCK_TEST_SAMPLE") else case(function)


def run(command, *arguments, threads=1):
    return subprocess.run(
        [PROGRAM, *command.split(), "--threads", str(threads), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=500,
        check=False,
    )


def succeeded(result):
    expect_equal(result.returncode, 0, f"exit status ({result.stderr!r})")
    return result.stdout.decode()


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield pathlib.Path(name)


def calibrate(where, *arguments, model=MODEL):
    path = where / "calibration.json"
    result = run("calibrate", "-m", model, "--samples", 2, "-n", 9, "-o", path, *arguments)
    return result, path


def calibration(where, *arguments):
    result, path = calibrate(where, *arguments)
    succeeded(result)
    return path


def video(where, *arguments, model=MODEL, frames=9, **more):
    return run("video", "-m", model, "-n", frames, "-o", where / "clip.y4m", *arguments, **more)


def video_json(where, *arguments, **more):
    return json.loads(succeeded(video(where, *arguments, "--json", **more)))


# --- calibrations --------------------------------------------------------------------------------


@case
def a_calibration_has_everything():
    with folder() as where:
        path = calibration(where, "--lse-threshold", 0.5, "--step-threshold", "2=0.9")
        value = json.loads(path.read_text())
        expect_equal(value["format"], "flashblock-calibration", "format")
        sizes = [value["num_layers"], value["num_heads"], value["num_steps"], value["blocks"]]
        expect_equal(sizes, [LAYERS, HEADS, STEPS, 2], "sizes")
        expect_equal(value["similarity_threshold_by_step"], [None, 0.9, None, None], "thresholds")
        for step in range(STEPS - 1):
            for layer in range(LAYERS):
                for head in range(HEADS):
                    similarity, change, refresh = (
                        value[name][step][layer][head] for name in ("similarity", "lse_change", "refresh")
                    )
                    expect(-1.0001 <= similarity <= 1.0001 and change >= 0, step, layer, head)
                    threshold = 0.9 if step == 1 else 0.85
                    expect_equal(refresh, int(similarity < threshold or change > 0.5), "refresh")


@case
def thresholds_that_always_refresh_give_dense_clips():
    with folder() as where:
        path = calibration(where, "--similarity-threshold", 1, "--lse-threshold", 0)
        value = video_json(where, "--reuse", path, "--clips", 2)
        expect_equal([clip["psnr_db"] for clip in value["clips"]], [None, None], "infinite PSNR")
        expect_equal(value["heads_reused"], 0, "heads")
        expect_equal(value["work_ratio"], 1, "work")


@case
def heads_reuse():
    with folder() as where:
        path = calibration(where, "--similarity-threshold", -1, "--lse-threshold", 1000)
        for kind in ("f32", "int8"):
            value = video_json(where, "--reuse", path, "--kv-dtype", kind)
            expect_equal(value["heads_reused"], 1, "heads")
            expect(0 < value["clips"][0]["psnr_db"] < 100, value["clips"])
            external, internal = [1, 2], 1  # blocks that the second and the third block see
            work = STEPS * (internal + sum(1 + e for e in external))
            reused = STEPS * 3 * internal + sum(external)
            expect(abs(value["work_ratio"] - work / reused) < 1e-6, value["work_ratio"], work / reused)


@case
def prompt_lines_end_in_lf_or_crlf():
    lines = (MODEL / "prompts.txt").read_text().splitlines()[:2]
    with folder() as where:
        outputs = []
        for text in ("\n".join(lines) + "\n", "\ufeff" + "\r\n".join(lines) + "\r\n\r\n"):
            (where / "lines.txt").write_bytes(text.encode())
            result = run("calibrate", "-m", MODEL, "--samples", 2, "-n", 6, "--prompts", where / "lines.txt",
                         "-o", where / "c.json")
            succeeded(result)
            outputs.append((where / "c.json").read_bytes())
        expect_equal(outputs[0], outputs[1], "calibrations")


@case
def a_plot():
    if not shutil.which("gnuplot"):
        raise Skipped("no gnuplot")
    with folder() as where:
        calibration(where, "--plot", where / "it's.png")
        expect((where / "it's.png").read_bytes().startswith(b"\x89PNG"), "PNG")
        calibration(where, "--plot", where / "a.svg")
        expect(b"<svg" in (where / "a.svg").read_bytes(), "SVG")
        expect_error(calibrate(where, "--plot", where / "a.gif")[0], 2, "a.gif")
        expect_error(calibrate(where, "--plot", where / "no" / "a.png")[0], 1, "a.png", "No such file")


@case
def wrong_thresholds():
    with folder() as where:
        for option, value in [
            ("similarity-threshold", "1.1"),
            ("similarity-threshold", "-2"),
            ("lse-threshold", "-0.1"),
            ("step-threshold", "0.9"),
            ("step-threshold", "0=0.9"),
            ("step-threshold", f"{STEPS}=0.9"),
            ("step-threshold", "1=2"),
            ("step-threshold", "1=x"),
            ("samples", "0"),
            ("frames", "3"),
        ]:
            result, path = calibrate(where, f"--{option}", value)
            expect_error(result, 2, option)
            expect(not path.exists(), "a file was written")


@case
def calibrations_of_other_models():
    with folder() as where:
        path = calibration(where)
        value = json.loads(path.read_text())
        tables = ("similarity", "lse_change", "internal_similarity", "refresh")

        def other(change):
            changed = json.loads(json.dumps(value))
            change(changed)
            path.write_text(json.dumps(changed))
            return video(where, "--reuse", path)

        def fewer_layers(v):
            v["num_layers"] -= 1
            v.update({name: [step[:-1] for step in v[name]] for name in tables})

        def fewer_heads(v):
            v["num_heads"] -= 1
            v.update({name: [[layer[:-1] for layer in step] for step in v[name]] for name in tables})

        def fewer_steps(v):
            v["num_steps"] -= 1
            v.update({name: v[name][:-1] for name in (*tables, "similarity_threshold_by_step")})

        expect_error(other(fewer_layers), 2, f"{LAYERS - 1} layers", f"the model has {LAYERS}")
        expect_error(other(fewer_heads), 2, f"{HEADS - 1} heads")
        expect_error(other(fewer_steps), 2, f"{STEPS - 1} passes")
        expect_error(other(lambda v: v.update(version=2)), 1, "version is 2")
        expect_error(other(lambda v: v.update(similarity_threshold=3)), 1, "threshold is 3")
        expect_error(other(lambda v: v.pop("refresh")), 1, "refresh")
        expect_error(other(lambda v: v["similarity"][0][0].append(1)), 1, "similarity")
        path.write_text("[]")
        expect_error(video(where, "--reuse", path), 1, path)
        expect_error(video(where, "--reuse", where / "none.json"), 1, "none.json")


# --- clips ---------------------------------------------------------------------------------------


def y4m_frames(path, clips, scale, frames):
    data = path.read_bytes()
    header, _, rest = data.partition(b"\n")
    width, height = clips * SIZE * scale, SIZE * scale
    expect_equal(header.decode(), f"YUV4MPEG2 W{width} H{height} F8:1 Ip A1:1 C444", "header")
    size = len(b"FRAME\n") + 3 * width * height
    expect_equal(len(rest), frames * size, "size")
    expect(all(rest[i * size :].startswith(b"FRAME\n") for i in range(frames)), "frames")
    return rest


@case
def files_of_clips():
    with folder() as where:
        sheet = where / "sheet.png"
        succeeded(video(where, "--clips", 2, "--scale", 3, "--sheet", sheet, frames=4))
        y4m_frames(where / "clip.y4m", 2, 3, 4)
        png = sheet.read_bytes()
        expect(png.startswith(b"\x89PNG\r\n\x1a\n"), "signature")
        expected = (2 + 4 * (3 * SIZE + 2), 2 + 2 * (3 * SIZE + 2))
        expect_equal(struct.unpack(">II", png[16:24]), expected, "size of the sheet")


@long_case
def the_same_pixels_everywhere():
    with folder() as where:

        def frames(*arguments, **more):
            succeeded(video(where, *arguments, frames=7, **more))
            return y4m_frames(where / "clip.y4m", 1, 4, 7)

        first = frames("--seed", 5)
        expect(frames("--seed", 5, threads=3) == first, "threads")
        expect(frames("--seed", 5, "--isa", "scalar") == first, "scalar")
        expect(frames("--seed", 6) != first, "seed")
        expect(frames("--seed", 5, "--prompt", "red ring") != first, "prompt")
        expect(frames("--seed", 5, "--compat", "released") == first, "its quirks do not show here")


@case
def wrong_usage():
    with folder() as where:
        expect_error(run("video", "-o", where / "a.y4m"), 2, "--model")
        expect_error(run("video", "-m", MODEL), 2, "--output")
        expect_error(run("calibrate", "-m", MODEL), 2, "--output")
        expect_error(video(where, "--prompt", "purple circle"), 2, "'purple'")
        expect_error(video(where, "--prompt", "red circle,blue ring,green ring"), 2, "2 phrases")
        expect_error(video(where, frames=0), 2, "frames")
        expect_error(video(where, model="/no/such/model"), 1, "/no/such/model")
        expect_error(video(where / "none"), 1, "clip.y4m")
        for command in ("video", "calibrate", "eval video"):
            text = succeeded(run(command, "--help"))
            expect(all(len(line) <= 100 for line in text.split("\n")), command)


# --- evaluations ---------------------------------------------------------------------------------


def evaluate(*arguments):
    return run("eval video", "-m", MODEL, "--samples", 1, "--clips", 2, "-n", 6, *arguments)


@case
def thresholds_compared():
    with folder() as where:
        thresholds = "1:0,0.85:0.5,-1:inf"
        value = json.loads(succeeded(evaluate("--thresholds", thresholds, "--json")))
        dense, never, some, always = value["ways"]
        expect(value["checked"] and dense["dense"] and not never["dense"], value)
        expect_equal([dense["heads_reused"], never["heads_reused"], always["heads_reused"]], [0, 0, 1], "heads")
        expect_equal([never["equal_to_dense"], never["psnr_db"], never["work_by_dense"]], [2, None, 1], "never")
        expect(always["psnr_db"] > 0 and always["work_by_dense"] <= some["work_by_dense"] < 1, value)
        expect(always["lse_threshold"] is None and some["similarity_threshold"] == 0.85, value)
        for way in value["ways"]:
            parts = [way[f"right_{part}"] for part in ("colour", "form", "place", "motion")]
            expect(0 <= way["right"] <= min(parts) and max(parts) <= way["clips"] == 2, way)
            expect_equal(way["right"], dense["right"] - way["lost"] + way["won"], "right clips")
        path = calibration(where, "--samples", 1, "-n", 6, "--lse-threshold", 0.5)
        refresh = json.loads(path.read_text())["refresh"]
        flat = [head for step in refresh for layer in step for head in layer]
        expect(abs(some["heads_reused"] - 1 + sum(flat) / len(flat)) < 1e-6, "the calibration is that of calibrate")
        (where / "prompts.txt").write_text("red circle\n")
        given = ("--prompts", where / "prompts.txt", "--thresholds", "-1:inf")
        expect("cannot be checked" in succeeded(evaluate(*given)), "clips that were not checked")
        if shutil.which("gnuplot"):
            succeeded(evaluate("--thresholds", "0.85:0.5,-1:inf", "--plot", where / "plot.png"))
            expect((where / "plot.png").read_bytes().startswith(b"\x89PNG"), "PNG")


@case
def parts_of_a_set():
    def ways(*arguments):
        return json.loads(succeeded(evaluate("--thresholds", "-1:inf", *arguments, "--json")))["ways"][1]

    parts, whole = [ways("--clips", 1, "--skip", skip) for skip in (0, 1)], ways()
    for name in ("right", "lost", "equal_to_dense"):
        expect_equal(sum(part[name] for part in parts), whole[name], name)
    expect(abs(parts[0]["psnr_db"] + parts[1]["psnr_db"] - 2 * whole["psnr_db"]) < 1e-6, "PSNR")


@case
def wrong_thresholds_compared():
    for thresholds in ("0.85", "0.85:", "2:0.05", "0.85:-1", "0.85:0.05,", "nan:1", "0.85:nan", "0.9:1;0.8:1"):
        expect_error(evaluate("--thresholds", thresholds), 2, "thresholds")
    expect_error(evaluate("--frames", 3), 2, "--frames")


# --- damaged models ------------------------------------------------------------------------------


@contextlib.contextmanager
def copy_of_model(change):
    with folder() as where:
        config = dict(CONFIG)
        change(config)
        for name in ("model.safetensors", "prompts.txt"):
            shutil.copy(MODEL / name, where / name)
        (where / "config.json").write_text(json.dumps(config))
        yield where


@case
def bad_configs():
    for change, word in [
        ({"local_attn_size": 2}, "local_attn_size is 2"),
        ({"local_attn_size": 5}, "local_attn_size is 5"),
        ({"sink_size": 13}, "sink_size"),
        ({"text_len": 131072}, "text_len is 131072"),
        ({"num_heads": 7}, "7 heads"),
        ({"num_layers": LAYERS + 1}, f"blocks.{LAYERS}.modulation"),
        ({"ffn_dim": 100}, "ffn.0.weight"),
        ({"frame_height": SIZE + 1}, f"frame_height is {SIZE + 1}"),
        ({"model_type": "i2v"}, 'model_type is "i2v"'),
        ({"window_size": [1, 1]}, "window_size is [1,1]"),
        ({"patch_size": [2, 4, 4]}, "patch_size[0]"),
        ({"patch_size": [1, 4]}, "patch_size"),
        ({"denoising_step_list": []}, "denoising_step_list"),
        ({"denoising_step_list": [500, 750]}, "denoising_step_list[1]"),
        ({"coordinate_channels": 1}, "coordinate_channels"),
        ({"timestep_shift": 0}, "timestep_shift"),
        ({"words": ["red"]}, "1 words"),
        ({"words": ["a b"] * CONFIG["text_dim"]}, "words[0]"),
        ({"_class_name": "Other"}, "'Other'"),
        ({"dim": None}, "dim"),
    ]:
        with copy_of_model(lambda config: config.update(change)) as model, folder() as where:
            expect_error(video(where, model=model), 1, model.name, word)
            expect(not (where / "clip.y4m").exists(), "a file was written")


@case
def cut_weights():
    with copy_of_model(lambda config: None) as model, folder() as where:
        path = model / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        expect_error(video(where, model=model), 1, "model.safetensors")


sys.exit(run_cases())
