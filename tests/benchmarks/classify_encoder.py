"""What each encoder costs on one core: ``python -m tests.benchmarks.classify_encoder [--json] [--torch]``.

Milliseconds of CPU per text at several lengths (p50/p95; every path runs in the calling thread, so on an idle core this
is the wall time), resident memory of a process that serves that path alone, seconds from process start to first vector,
and with ``--torch`` the worst cosine to the float32 reference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (10, 30, 100, 256)
WORD = "river"
"""One piece long, so that a text of n words has n pieces."""


def text(pieces: int, number: int) -> str:
    """A text of ``pieces`` pieces (two of them markers) that differs with ``number``."""
    words = ("river", "stone", "house", "light", "paper", "green", "train", "music")
    return " ".join(words[(number * 7 + n * n) % len(words)] for n in range(pieces - 2))


def measure(path: str, cache: Path, began: float) -> dict[str, Any]:
    """Figures of one path, in this process and no other."""
    encoder = open_encoder(path, cache)
    encoder.encode([WORD])
    figures: dict[str, Any] = {"path": path, "cold_start_s": time.time() - began}
    for pieces in LENGTHS:
        encoder.encode([text(pieces, -1)])
        runs = []
        for number in range(300 if path != "torch" else 60):
            start = time.thread_time()
            encoder.encode([text(pieces, number)])
            runs.append((time.thread_time() - start) * 1000)
        figures[f"1x{pieces}_ms"] = [float(np.quantile(runs, q)) for q in (0.5, 0.95)]
    figures["rss_mib"] = peak_memory()
    return figures


def peak_memory() -> float:
    """This process's largest resident set, MiB; rusage would count the parent's from before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def open_encoder(path: str, cache: Path) -> Any:
    """The encoder of a path, and nothing else."""
    from classifiers import prepare

    if path == "static":
        return prepare.load_static(cache)
    if path == "full":
        return prepare.load_full(cache)
    from classifiers.torch_encoder import TorchEncoder

    weights = prepare._from_package(prepare.MINILM)["model.safetensors"].parent
    return TorchEncoder(str(weights), device="cpu")


def faithfulness(cache: Path) -> float:
    """The worst cosine between the full look and the float32 reference over the tests' prompts."""
    from tests.classifiers.test_encoder import LONG, PROMPTS

    prompts = [*PROMPTS, *LONG]
    found, wanted = (open_encoder(path, cache).encode(prompts) for path in ("full", "torch"))
    return float((found * wanted).sum(axis=1).min())


def alone(path: str, cache: Path) -> dict[str, Any]:
    """`measure` in a fresh process on one thread."""
    command = [sys.executable, "-m", "tests.benchmarks.classify_encoder", "--path", path, "--cache", str(cache)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command += ["--began", str(time.time())]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Measure every path in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--torch", action="store_true", help="measure the reference too, and the cosine to it")
    parser.add_argument("--cache", type=Path, help="a prepared cache (default: a new one)")
    parser.add_argument("--path", help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.path:
        print(json.dumps(measure(args.path, args.cache, args.began)))
        return
    from classifiers.prepare import prepare

    with tempfile.TemporaryDirectory() as temporary:
        cache = args.cache or Path(temporary)
        start = time.perf_counter()
        prepare(cache)
        took = time.perf_counter() - start
        paths = [alone(path, cache) for path in ("static", "full", *(["torch"] if args.torch else []))]
        worst = faithfulness(cache) if args.torch else None
    if args.json:
        print(json.dumps({"prepare_s": took, "min_cosine": worst, "paths": paths}))
        return
    print(f"{'path':8}{'start, s':>9}{'RSS, MiB':>9}" + "".join(f"{f'1x{n}, ms':>16}" for n in LENGTHS))
    for figures in paths:
        times = "".join("{:>9.2f} /{:>5.2f}".format(*figures[f"1x{n}_ms"]) for n in LENGTHS)
        print(f"{figures['path']:8}{figures['cold_start_s']:>9.2f}{figures['rss_mib']:>9.0f}{times}")
    print(f"prepare: {took:.1f} s" + (f"; worst cosine of full to torch: {worst:.4f}" if worst is not None else ""))


if __name__ == "__main__":
    main()
