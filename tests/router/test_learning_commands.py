"""``tierwise classify``, ``train`` and ``evaluate`` as processes would call them, without an encoder."""

import io
import json
from pathlib import Path

import pytest

from router.cli import main

PAIR = ["--small", "tiny-7b", "--large", "big-70b"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    from tests.classifiers.small_world import rows as made

    path = tmp_path / "rows.jsonl"
    lines = ({"id": r.id, "prompt": r.features.text, "task": r.task, "scores": dict(r.scores)} for r in made(240))
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    content = io.BytesIO()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(content, encoding="utf-8"))
    return content


def test_train_then_evaluate_then_classify(
    rows: Path, tmp_path: Path, stdin: io.BytesIO, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    out, work = str(tmp_path / "artifact"), str(tmp_path / "work")
    assert main(["train", "--data", str(rows), "--out", out, "--look", "lexical", "--work", work]) == 0
    assert main(["evaluate", "--data", str(rows), *PAIR, "--look", "lexical", "--artifact", out, "--json"]) == 0
    printed = capfdbinary.readouterr().out.decode()
    report = json.loads(printed[printed.index("{") :])
    assert report["pair"]["rows"] == 240
    assert set(report["pair"]["router"]) == {"apgr", "cpt50", "cpt80", "aiq", "saving_at_equal_quality"}
    assert report["pair"]["router"]["apgr"]["low"] <= report["pair"]["router"]["apgr"]["value"]
    stdin.write(
        b'{"id": "a", "prompt": "hello there"}\n\n{"id": "b", "messages": [{"role": "user", "content": "2+2"}]}\n'
    )
    stdin.seek(0)
    assert main(["classify", "--artifact", out, "--look", "lexical"]) == 0
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["id"] for line in lines] == ["a", "b"]
    assert {"domain", "domain_probs", "complexity", "success", "classify_ms"} <= lines[0].keys()
    assert 0.0 <= lines[0]["success"]["tiny-7b"] <= 1.0


def test_cross_validation_prints_a_table(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "evaluate",
        "--data",
        str(rows),
        *PAIR,
        "--look",
        "lexical",
        "--cross-validate",
        "3",
        "--bootstrap",
        "20",
    ]
    assert main(command) == 0
    printed = capsys.readouterr().out
    for word in ("router", "length only", "oracle", "ECE", "keep_quality 0.97"):
        assert word in printed


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "x", "prompt": "p", "scores": {"m": 2}}', "rows.jsonl, line 241: the score of 'm' is 2"),
        ('{"id": "0-0", "prompt": "p", "scores": {"m": 1}}', "rows.jsonl, line 241: id '0-0' was already used"),
    ],
)
def test_bad_rows_end_training_with_nothing_written(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    rows.write_text(f"{rows.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    out = tmp_path / "artifact"
    command = ["train", "--data", str(rows), "--out", str(out), "--look", "lexical", "--work", str(tmp_path / "w")]
    assert main(command) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_unknown_models_and_half_a_pair(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--data", str(rows), *PAIR, "--look", "lexical"]) == 1
    assert "row '0-0' names the model 'tiny-7b'" in capsys.readouterr().err
    assert main(["evaluate", "--data", str(rows), "--small", "tiny-7b"]) == 2


def test_an_artifact_that_is_none(tmp_path: Path, stdin: io.BytesIO, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", "--artifact", str(tmp_path), "--look", "lexical"]) == 1
    assert "is" in capsys.readouterr().err
