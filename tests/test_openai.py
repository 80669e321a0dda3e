#!/usr/bin/python3
"""test_openai.py PROGRAM MODEL_DIR PACKAGES: `flashblock serve` asked by the npm package openai. Prints TAP.

The package is installed from npm into the directory PACKAGES. Skipped where there is no node, no npm or no network.
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile

from serve_support import Server

PACKAGE = "openai@6.49.0"
PACKAGES = pathlib.Path(sys.argv[3])
CLIENT = pathlib.Path(__file__).parent / "openai_client" / "client.mjs"


def why_not():
    """Installs the package; says why that is not possible."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            return f"{program} is not installed"
    PACKAGES.mkdir(parents=True, exist_ok=True)
    if (PACKAGES / "node_modules" / "openai" / "package.json").exists():
        return None
    (PACKAGES / "package.json").write_text('{"private": true}', encoding="utf-8")
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1", "--fetch-timeout=60000"]
    command = ["npm", "install", "--prefix", str(PACKAGES), *options, PACKAGE]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode == 0:
        return None
    return "npm cannot install the package openai"


def main():
    reason = why_not()
    if reason:
        print(f"1..0 # SKIP {reason}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        key = pathlib.Path(folder) / "key"
        key.write_text("secret\n", encoding="utf-8")
        with Server("--api-key-file", key, "--parallel", 2) as server, Server("--parallel", 1, "--queue", 1) as busy:
            urls = [f"http://127.0.0.1:{one.port}/v1" for one in (server, busy)]
            return subprocess.run(["node", str(CLIENT), str(PACKAGES), *urls], check=False, timeout=300).returncode


sys.exit(main())
