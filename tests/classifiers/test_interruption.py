"""Training that is killed goes on where it was, to the same bytes as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from classifiers import folds, members
from classifiers.artifact import save
from classifiers.boost import Growth
from classifiers.folds import Folds
from classifiers.heads import Array
from classifiers.train import train
from tests.classifiers.small_world import BagEncoder, rows

QUICK = members.Settings(growth=Growth(trees=3), iterations=8)
ROWS = 700


class Stuck(BagEncoder):
    """Says so and waits for ever once it has encoded so many batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def encode(self, texts: Sequence[str]) -> Array:
        if not self._left:
            print("stuck", flush=True)
            sys.stdin.read()
        self._left -= 1
        return super().encode(texts)


def main(folder: Path) -> None:
    """What the killed process does."""
    save(train(rows(ROWS), {"full": Stuck(2)}, folder / "work", QUICK), folder / "artifact")


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from tests.classifiers.test_interruption import main; main(Path({str(tmp_path)!r}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    encoder = BagEncoder()
    save(train(rows(ROWS), {"full": encoder}, tmp_path / "work", QUICK), tmp_path / "artifact")
    fresh = BagEncoder()
    save(train(rows(ROWS), {"full": fresh}, tmp_path / "other", QUICK), tmp_path / "whole")
    assert encoder.calls == fresh.calls - 512
    for name in ("heads.safetensors", "manifest.json"):
        assert (tmp_path / "artifact" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_torn_write_is_encoded_again(tmp_path: Path) -> None:
    encoders = {"full": BagEncoder()}
    whole = members.corpus(rows(300), encoders, tmp_path).rows.vectors["full"][:].copy()
    (vectors,) = (tmp_path / "rows").glob("full-*.f16")
    vectors.write_bytes(vectors.read_bytes()[: 100 * 48 + 7])
    again = BagEncoder()
    assert np.array_equal(members.corpus(rows(300), {"full": again}, tmp_path).rows.vectors["full"], whole)
    assert again.calls == 300


def test_folds_that_are_known_are_not_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = members.corpus(rows(120), {}, tmp_path / "work")
    asked = Folds(tmp_path / "folds", "lexical", "", QUICK)
    where = members.fold_of(data.rows.ids, 0, 3)
    fits = []
    fitted = folds.held_out

    def counted(*args: object, **options: object) -> object:
        fits.append(args)
        if len(fits) == 3:
            raise KeyboardInterrupt
        return fitted(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(folds, "held_out", counted)
    with pytest.raises(KeyboardInterrupt):
        asked.held("rows", data, where)
    assert len(list((tmp_path / "folds").iterdir())) == 2
    found = asked.held("rows", data, where)
    assert len(fits) == 4
    assert np.array_equal(found.logits, asked.held("rows", data, where).logits)
    assert len(fits) == 4
    direct = members.held_out(data, where, QUICK)["lexical"]
    assert np.allclose(found.logits, direct.logits, atol=1e-5)
    other = replace(QUICK, seed=1)
    replace(asked, settings=other).held("rows", data, where)
    assert len(fits) == 7
