"""Where the full encoder runs: on a GPU where one is there, unless it is told otherwise. None is needed here."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from classifiers import prepare, torch_encoder
from classifiers.encoder import EncoderUnavailable, OnnxEncoder
from policies.schema import ClassifierSettings
from router import encoders
from router.encoders import EncoderSettings


class FakeGpu:
    """Stands in for `TorchEncoder`: notes what it was made with."""

    made: Any = None

    def __init__(self, model: str, device: str | None = None, name: str = "") -> None:
        FakeGpu.made = (model, device)
        self.name, self.dimension, self.runtime = name, 384, f"torch on {device}"

    def encode(self, texts: list[str]) -> Any:
        return np.full((len(texts), 384), 384**-0.5, np.float32)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with a GPU, or without: ``machine(True)``."""

    def be(gpu: bool) -> None:
        monkeypatch.setattr(torch_encoder, "gpu", lambda: gpu)
        monkeypatch.setattr(torch_encoder, "TorchEncoder", FakeGpu)
        monkeypatch.setattr(FakeGpu, "made", None)

    return be


def test_without_a_driver_torch_is_not_loaded() -> None:
    code = (
        "import sys; from pathlib import Path; from classifiers import torch_encoder; "
        "torch_encoder.DRIVERS = (Path('/nowhere'),); assert not torch_encoder.gpu(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("sees", [True, False])
def test_with_a_driver_torch_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sees: bool) -> None:
    monkeypatch.setattr(torch_encoder, "DRIVERS", (tmp_path,))
    monkeypatch.setitem(
        sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: sees))  # type: ignore[arg-type]
    )  # fmt: skip
    assert torch_encoder.gpu() is sees
    monkeypatch.setattr(torch_encoder, "find_spec", lambda _: None)
    assert torch_encoder.gpu() is False


def test_a_gpu_is_taken_and_its_vectors_are_of_the_same_space(encoder_cache: Path, machine: Any) -> None:
    machine(True)
    found = prepare.load(encoder_cache, device="auto")
    folder, device = FakeGpu.made
    assert device == "cuda"
    assert (Path(folder) / "modules.json").is_file()
    assert found.full.name == prepare.load_full(encoder_cache).name
    assert found.full.runtime == "torch on cuda"


@pytest.mark.parametrize(("gpu", "device"), [(True, "cpu"), (False, "auto"), (False, "cpu")])
def test_otherwise_it_stays_on_the_cpu(encoder_cache: Path, machine: Any, gpu: bool, device: Any) -> None:
    machine(gpu)
    found = prepare.load(encoder_cache, device=device)
    assert isinstance(found.full, OnnxEncoder)
    assert found.full.runtime == "ONNX Runtime on cpu"
    assert FakeGpu.made is None


def test_a_gpu_that_was_asked_for_and_is_not_there_is_said(machine: Any) -> None:
    machine(False)
    with pytest.raises(EncoderUnavailable, match="no GPU that torch sees"):
        prepare.on_device("cuda")


def test_a_gpu_that_cannot_be_used_is_logged(
    encoder_cache: Path, machine: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine(True)

    def broken(*_: object, **__: object) -> None:
        raise EncoderUnavailable("out of memory")

    monkeypatch.setattr(torch_encoder, "TorchEncoder", broken)
    with caplog.at_level(logging.WARNING):
        assert isinstance(prepare.load(encoder_cache, device="auto").full, OnnxEncoder)
    assert "stays on the CPU: out of memory" in caplog.text
    with pytest.raises(EncoderUnavailable, match="out of memory"):
        prepare.load(encoder_cache, device="cuda")


@pytest.mark.parametrize(
    ("gpu", "device", "steps"),
    [
        (False, "auto", ["none", "ONNX Runtime on cpu"]),
        (True, "auto", ["none", "ONNX Runtime on cpu", "torch on cuda"]),
        (True, "cpu", ["none", "ONNX Runtime on cpu"]),
        (True, "cuda", ["none", "torch on cuda"]),
    ],
)
def test_serving_begins_on_the_cpu_and_moves_to_the_gpu(
    encoder_cache: Path, machine: Any, gpu: bool, device: str, steps: list[str]
) -> None:
    machine(gpu)
    seen: list[str] = []
    settings = EncoderSettings.of(ClassifierSettings.model_validate({"device": device}))
    encoders.warm(settings, encoder_cache, lambda _, full: seen.append(full.runtime if full else "none"))
    assert seen == steps


def test_torch_on_this_machine_speaks_of_the_same_space(encoder_cache: Path) -> None:
    """What would run on a GPU, on the CPU: close enough that one artifact serves both."""
    folder = prepare._find(prepare.MINILM, None, False)["model.safetensors"].parent
    encoder = torch_encoder.TorchEncoder(str(folder), device="cpu", name=prepare.MINILM.name)
    texts = ["What is the capital of Peru?", "Prove that the square root of two is irrational."]
    full = prepare.load_full(encoder_cache)
    assert encoder.name == full.name
    assert ((encoder.encode(texts) * full.encode(texts)).sum(axis=1) > 0.99).all()
