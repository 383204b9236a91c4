"""``tierwise advise`` and ``tierwise bench`` from the command line: what they print, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policies.schema import Simulation
from router.backends.simulator import Simulator
from router.cli import main

ADVISE = ["advise", "--gpu", "H200", "--model-params", "70e9"]
PRICED = ["--gpu-hour-usd", "3.5", "--hosted-input-usd", "0.6", "--hosted-output-usd", "0.7"]


def test_advice_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ADVISE, "--precision", "int4", *PRICED]) == 0
    said = capsys.readouterr().out
    for part in (
        "39.4 GB of 141 GB",
        "328 kB a token",
        "owning one copy wins from 1.200 requests/s",
        "published 70.6B",
    ):
        assert part in said


def test_advice_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ADVISE, "--precision", "int4", "--json", "--load", "2", *PRICED]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fits"]
    assert told["owning_wins"]
    assert told["usd_per_mtok"] == pytest.approx(3.5 / (3600 * 2 * 1300) * 1e6)


def test_an_unknown_price_is_not_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ADVISE, "--precision", "int4"]) == 0
    assert "unpriced" in capsys.readouterr().out
    assert main([*ADVISE, "--precision", "int4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["usd_per_mtok"] is None
    assert told["owning_wins"] is None


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--precision", "bf16"], 1, "fits             no"),
        (["--gpu", "H20"], 2, "There are: T4"),
        (["--precision", "int3"], 2, "--precision 'int3'"),
        (["--load", "0"], 2, "must be positive"),
        (["--gpus", "0"], 2, "must be positive"),
        (["--precision", "int4", "--input-tokens", "900000"], 1, "does not fit into the KV cache"),
        (["--precision", "int4", "--gpu-hour-usd", "90", *PRICED[2:]], 0, "owning never wins"),
        (["--precision", "int4", "--layers", "80", "--kv-heads", "8", "--head-size", "128"], 0, "conversations"),
    ],
)
def test_advice_that_refuses_or_warns(
    capsys: pytest.CaptureFixture[str], more: list[str], code: int, said: str
) -> None:
    assert main([*ADVISE, *more]) == code
    out, err = capsys.readouterr()
    assert said in out + err


@pytest.fixture
def simulator() -> object:
    simulator = Simulator("sim", Simulation.model_validate({"ttft": "5ms", "tokens_per_second": 2000}))
    simulator.start()
    yield simulator
    simulator.stop()


FEW = ["--concurrency", "1,3", "--rounds", "2", "--requests", "3", "--max-tokens", "20"]


def test_a_bench_in_words(simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", simulator.url, *FEW]) == 0
    said = capsys.readouterr().out
    assert simulator.url in said
    assert "TTFT p50 ms" in said


def test_a_bench_against_itself_finds_no_difference(
    simulator: Simulator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("Why is the sky blue?\n")
    options = [*FEW, "--prompts", str(prompts), "--rounds", "4", "--json"]
    assert main(["bench", simulator.url, "--vs", simulator.url, "--vs-model", "sim", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["summaries"]) == 4
    assert told["summaries"][0]["ttft_p50"]["value"] > 5
    for difference in told["differences"]:
        assert difference["tokens_per_second"]["value"] == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["small-1"], 2, "not a URL; give --policy"),
        (["small-1", "--policy", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["http://127.0.0.1:9/v1", "--rounds", "0"], 2, "at least 1"),
        (["http://127.0.0.1:9/v1", "--concurrency", "x"], 2, "invalid literal"),
        (["http://127.0.0.1:9/v1"], 1, "Give --model"),
        (["http://127.0.0.1:9/v1", "--model", "m", *FEW], 1, "6 connect"),
    ],
)
def test_a_bench_that_cannot_be(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str) -> None:
    assert main(["bench", *arguments]) == code
    out, err = capsys.readouterr()
    assert said in out + err


def test_a_backend_is_named_by_its_policy(
    simulator: Simulator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    backend = f"{{name: here, kind: vllm, model: sim, base_url: '{simulator.url}', cost: {{gpu_hour_usd: 1}}}}"
    policy.write_text(f"version: 1\ntiers:\n  small: {{backends: [{backend}]}}\n")
    assert main(["bench", "here", "--policy", str(policy), *FEW, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["engines"][simulator.url]["prefix_hit_rate"] > 0
    assert main(["bench", "there", "--policy", str(policy), *FEW]) == 2
    assert "it has here" in capsys.readouterr().err
