"""A trained classifier on disk: a folder of arrays and a manifest, hashed, verified on load, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from classifiers.heads import TREE_DEPTH, Heads
from classifiers.lexical import LEXICAL
from classifiers.ngrams import SIZE
from policies.values import DOMAINS, KEPT

FORMAT = 3
"""Version of the folder's layout; another one is refused."""

DEFAULT = Path(__file__).parent / "artifacts" / "default"
"""The artifact that ships with the package."""


def default_artifact() -> Path:
    """The folder of the artifact that ships with the package."""
    return DEFAULT


_ARRAYS = "heads.safetensors"
_MANIFEST = "manifest.json"
_PARTS = (
    "table", "plain", "weights", "projection", "features", "thresholds", "leaves", "centroids", "means", "places",
    "scale", "shift", "reach", "spread", "noise", "shared", "enough",
)  # fmt: skip


class ArtifactError(ValueError):
    """An artifact that cannot be served; the message says which file or head, what was found, what to do."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """Heads by look, and what they were trained for.

    ``models`` are the success columns in order, ``encoders`` the vector space that each look needs. ``about`` is the
    rest of the manifest: data hashes, figures, licences, seed, benchmarks of each model. ``id`` is a hash over
    everything, empty until the artifact is saved or loaded.
    """

    models: tuple[str, ...]
    encoders: Mapping[str, str]
    heads: Mapping[str, Heads]
    about: Mapping[str, Any]
    id: str = ""


def save(artifact: Artifact, folder: Path) -> Artifact:
    """Write the artifact as ``folder``, atomically: beside it first, then renamed over what was there.

    The same artifact always gives the same bytes. Returns it with its ``id``.
    Raises `ArtifactError` for arrays that are not finite or misshapen.
    """
    for look, heads in artifact.heads.items():
        _check_heads(look, heads, artifact, "this artifact")
    arrays = {f"{look}.{part}": _array(heads, part) for look, heads in artifact.heads.items() for part in _PARTS}
    packed = save_arrays(dict(sorted(arrays.items())))
    body = {
        **artifact.about,
        "format": FORMAT,
        "models": list(artifact.models),
        "domains": list(DOMAINS),
        "lexical": list(LEXICAL),
        "encoders": dict(artifact.encoders),
        "sha256": {_ARRAYS: hashlib.sha256(packed).hexdigest()},
    }
    body["id"] = _identity(body)
    text = json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        _write(made / _ARRAYS, packed)
        _write(made / _MANIFEST, text.encode())
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        made.rename(folder)
    return load(folder)


def load(folder: Path) -> Artifact:
    """Read and verify an artifact. Raises `ArtifactError`."""
    manifest = _manifest(folder)
    packed = _verified(folder, manifest)
    try:
        arrays = load_arrays(packed)
    except SafetensorError as error:
        raise ArtifactError(f"{folder / _ARRAYS}: not a safetensors file ({error})") from error
    looks = sorted({name.split(".")[0] for name in arrays} | set(manifest["encoders"]))
    artifact = Artifact(
        models=tuple(manifest["models"]),
        encoders=manifest["encoders"],
        heads={look: _heads(look, arrays, folder) for look in looks},
        about={k: v for k, v in manifest.items() if k not in _OWN_KEYS},
        id=manifest["id"],
    )
    if "lexical" not in artifact.heads:
        raise ArtifactError(f"{folder}: the lexical head is missing; train the artifact again")
    for look, heads in artifact.heads.items():
        _check_heads(look, heads, artifact, str(folder))
    return artifact


_OWN_KEYS = ("format", "models", "domains", "lexical", "encoders", "sha256", "id")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); is {folder} an artifact?") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON ({error})") from error
    missing = [k for k in _OWN_KEYS if not isinstance(manifest, dict) or k not in manifest]
    if missing:
        raise ArtifactError(f"{path}: key {missing[0]!r} is missing; train the artifact again")
    if manifest["format"] != FORMAT:
        raise ArtifactError(f"{path}: format {manifest['format']!r}, this version reads {FORMAT}; train it again")
    for key, ours in (("domains", DOMAINS), ("lexical", LEXICAL)):
        if tuple(manifest[key]) != ours:
            raise ArtifactError(f"{path}: made for other {key} than this version has; train it again")
    if manifest["id"] != _identity(manifest):
        raise ArtifactError(f"{path}: its id does not match its content; it was edited, train or copy it again")
    return dict(manifest)


def _verified(folder: Path, manifest: Mapping[str, Any]) -> bytes:
    path = folder / _ARRAYS
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); copy or train the artifact again") from error
    found, expected = hashlib.sha256(packed).hexdigest(), manifest["sha256"].get(_ARRAYS)
    if found != expected:
        raise ArtifactError(f"{path}: sha256 is {found}, the manifest says {expected}; copy or train it again")
    return packed


def _identity(manifest: Mapping[str, Any]) -> str:
    body = {k: v for k, v in manifest.items() if k != "id"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _array(heads: Heads, part: str) -> NDArray[Any]:
    kind = {"table": np.float16, "features": np.int32}.get(part, np.float32)
    return np.ascontiguousarray(getattr(heads, part), kind)


def _heads(look: str, arrays: Mapping[str, NDArray[Any]], folder: Path) -> Heads:
    for part in _PARTS:
        if f"{look}.{part}" not in arrays:
            raise ArtifactError(f"{folder / _ARRAYS}: head {look}.{part} is missing; train the artifact again")
    parts: dict[str, Any] = {part: arrays[f"{look}.{part}"] for part in _PARTS}
    return Heads(**parts | {"table": parts["table"].astype(np.float32)})


def _check_heads(look: str, heads: Heads, artifact: Artifact, where: str) -> None:
    depth = len(heads.weights)
    width, trees = depth // 2 - len(LEXICAL) - 1, len(heads.features)
    shapes = {
        "table": (SIZE if look == "lexical" else 0, len(artifact.models) + len(DOMAINS)),
        "plain": (2 * len(LEXICAL) + 2 if look == "lexical" else 0, len(artifact.models)),
        "weights": (depth, len(artifact.models) + len(DOMAINS)),
        "projection": (width, heads.projection.shape[-1]),
        "features": (trees, 2**TREE_DEPTH - 1),
        "thresholds": (trees, 2**TREE_DEPTH - 1),
        "leaves": (trees * 2**TREE_DEPTH, len(artifact.models)),
        "scale": (len(artifact.models),),
        "shift": (len(artifact.models),),
        "spread": (depth, heads.spread.shape[-1]),
        "noise": (2, len(artifact.models)),
        "shared": (2, len(artifact.models)),
        "enough": (len(KEPT), len(artifact.models), len(artifact.models)),
        "reach": (3,),
        "centroids": (len(heads.centroids), width),
        "places": (len(heads.places), width + len(LEXICAL) if width else 0),
        "means": (len(heads.centroids), len(artifact.models)),
    }
    for part, shape in shapes.items():
        found = getattr(heads, part)
        if found.shape != shape:
            raise ArtifactError(f"{where}: head {look}.{part} has shape {found.shape}, expected {shape}")
        if np.isnan(found).any() or (part != "thresholds" and not np.isfinite(found).all()):
            raise ArtifactError(f"{where}: head {look}.{part} holds NaN or infinity; train the artifact again")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
