"""What training costs as logs grow: ``python -m tests.benchmarks.train [--rows 10000 100000 1000000] [--look static]``.

``tierwise train`` in a process of its own on generated rows: two models, prompts of two topics that only one of them
masters. Seconds of CPU, milliseconds of it a row, wall seconds, the largest resident set (pages of mapped files
included, which the system takes back at will), and whether the artifact has learnt what there was to learn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.benchmarks.figures import Figures

TOPICS = {
    "easy": "elephant mountain kitchen strawberry holiday umbrella bread butterfly sandwich chocolate garden weather",
    "hard": "integral manifold tensor eigenvalue homology lemma entropy quark isomorphism gradient lattice measure",
}
COMMON = "the of what does how and a for when in with about is my our every which between some if then under"


def rows(count: int, seed: int = 0) -> Iterator[dict[str, object]]:
    """Prompts of 20 to 60 words; the large model is right nine times in ten, the small one on hard ones once."""
    random = Random(seed)
    for number in range(count):
        topic = "hard" if random.random() < 0.5 else "easy"
        words = random.choices(COMMON.split(), k=random.randint(12, 40)) + random.choices(TOPICS[topic].split(), k=8)
        random.shuffle(words)
        right = {"tiny-7b": 0.9 if topic == "easy" else 0.1, "big-70b": 0.9}
        yield {
            "id": f"{seed}-{number}",
            "prompt": " ".join(words) + "?",
            "task": f"{topic}-{number % 7}",
            "scores": {model: float(random.random() < p) for model, p in right.items()},
        }


def main() -> None:
    """Train on logs of growing length and print what each cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--look", choices=("lexical", "static", "full"), default="static")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    found = Figures("train")
    for count in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            found.add(f"{count:,} rows", **measure(Path(folder), count, args.look))
        found.print()
        found.write(args.json)


def measure(folder: Path, count: int, look: str) -> dict[str, float]:
    """One training run on so many rows."""
    data = folder / "rows.jsonl"
    with data.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(count))
    command = [sys.executable, "-m", "router.cli", "train", "--data", str(data), "--out", str(folder / "artifact")]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, "--look", look, "--work", str(folder / "work")], env=environ, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"training failed with exit code {process.returncode}")
    cpu = used.ru_utime + used.ru_stime
    figures = json.loads((folder / "artifact" / "manifest.json").read_text())["figures"][look]["tiny-7b"]
    return {
        "CPU s": cpu,
        "CPU ms a row": cpu / count * 1e3,
        "wall s": time.monotonic() - began,
        "peak MiB": used.ru_maxrss / 1024,
        "disk MiB": sum(path.stat().st_size for path in (folder / "work").rglob("*") if path.is_file()) / 2**20,
        "Brier (0.09 is the best there is)": figures["brier"],
    }


if __name__ == "__main__":
    main()
