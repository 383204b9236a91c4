"""``tierwise check``: its report, its exit codes, and how little it loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from policies.document import load
from router.cli import main

GOOD = """\
version: 1
tiers:
  small: {backends: [{name: s, kind: vllm, model: m, context_window: 8000, cost: {gpu_hour_usd: 0.5}, api_key: sk-1}]}
"""
BAD = GOOD.replace("kind: vllm", "kind: vlm") + "baseline: larg\n"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def test_a_good_policy_is_printed_as_it_resolved(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(policy)]) == 0
    out, err = capsys.readouterr()
    assert load(out, file="again", environ={}).policy.baseline == "small"
    assert "sk-1" not in out + err
    assert err.startswith(f"{policy}: ok (policy ")


def test_errors_go_to_standard_error_with_their_place(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy.write_text(BAD, encoding="utf-8")
    assert main(["check", str(policy)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    first, second, last = err.splitlines()
    assert first.startswith(f"{policy}:3:38: error: tiers.small.backends[0].kind: 'vlm' is not known here")
    assert second.startswith(f"{policy}:4:11: error: baseline: there is no tier 'larg'")
    assert last == f"{policy}: not usable, 2 errors"


def test_warnings_fail_only_where_asked(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy.write_text(GOOD.replace(", cost: {gpu_hour_usd: 0.5}", ""), encoding="utf-8")
    assert main(["check", str(policy)]) == 0
    assert ", 1 warning\n" in capsys.readouterr().err
    assert main(["check", str(policy), "--strict"]) == 1


@pytest.mark.parametrize(("text", "code", "problems"), [(GOOD, 0, 0), (BAD, 1, 2)])
def test_json(policy: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, problems: int) -> None:
    policy.write_text(text, encoding="utf-8")
    assert main(["check", str(policy), "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is (code == 0)
    assert len(report["problems"]) == problems
    assert (report["policy"] is None, report["hash"] is None) == (code == 1, code == 1)
    assert all({"file", "line", "column", "key", "message", "hint", "severity"} <= set(p) for p in report["problems"])


def test_a_preset_is_known_by_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", "balanced", "--strict"]) == 0
    assert "input_usd_per_mtok: 2.5" in capsys.readouterr().out


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--schema"]) == 0
    assert "When" in json.loads(capsys.readouterr().out)["$defs"]


@pytest.mark.parametrize(("timezone", "code"), [("Europe/Berlin", 0), ("Mars/Base", 1), ("../etc", 1)])
def test_timezones_are_looked_up(policy: Path, timezone: str, code: int) -> None:
    policy.write_text(f"{GOOD}timezone: {timezone}\n", encoding="utf-8")
    assert main(["check", str(policy)]) == code


def test_a_file_that_cannot_be_read_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "nothing.yaml")]) == 2
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert main(["check", str(tmp_path / "binary.yaml")]) == 2
    assert "it is not UTF-8 text" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["check"])
    assert stopped.value.code == 2


def test_nothing_heavy_is_imported(policy: Path) -> None:
    script = f"import sys; from router.cli import main; main(['check', {str(policy)!r}]); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.splitlines()[-1].split())
    assert "policies.document" in loaded
    assert not loaded & {"numpy", "litellm", "torch", "sklearn", "redis", "starlette", "httpx", "aiohttp", "rich"}
