"""Artifacts on disk: the same bytes for the same training, and a clear refusal of whatever was damaged."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as unpack
from safetensors.numpy import save as pack

from classifiers.artifact import Artifact, ArtifactError, load, save
from classifiers.boost import Growth
from classifiers.members import Settings
from classifiers.train import train
from tests.classifiers.small_world import BagEncoder, rows

QUICK = Settings(growth=Growth(trees=5), iterations=15)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return train(rows(120), {"full": BagEncoder()}, tmp_path_factory.mktemp("work"), QUICK)


@pytest.fixture
def folder(trained: Artifact, tmp_path: Path) -> Path:
    save(trained, tmp_path / "artifact")
    return tmp_path / "artifact"


def rewrite(folder: Path, change: Any) -> None:
    """Change the arrays and make the hashes match again, as a buggy writer would."""
    from classifiers import artifact

    arrays = unpack((folder / "heads.safetensors").read_bytes())
    change(arrays)
    packed = pack(arrays)
    (folder / "heads.safetensors").write_bytes(packed)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["heads.safetensors"] = artifact.hashlib.sha256(packed).hexdigest()
    manifest["id"] = artifact._identity(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_same_rows_and_seed_give_the_same_bytes(trained: Artifact, folder: Path, tmp_path: Path) -> None:
    again = train(rows(120), {"full": BagEncoder()}, tmp_path / "work", QUICK)
    save(again, tmp_path / "again")
    for name in ("heads.safetensors", "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_what_is_loaded_is_what_was_saved(trained: Artifact, folder: Path) -> None:
    found = load(folder)
    assert found.models == trained.models
    assert found.id
    for look, heads in trained.heads.items():
        assert np.array_equal(found.heads[look].weights, heads.weights)


def test_a_wrong_hash(folder: Path) -> None:
    path = folder / "heads.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"sha256 is [0-9a-f]+, the manifest says"):
        load(folder)


def test_an_edited_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ArtifactError, match="id does not match its content"):
        load(folder)


def test_a_missing_head(folder: Path) -> None:
    rewrite(folder, lambda arrays: arrays.pop("full.weights"))
    with pytest.raises(ArtifactError, match=r"head full\.weights is missing"):
        load(folder)


def test_nan_in_a_head(folder: Path) -> None:
    rewrite(folder, lambda arrays: arrays["full.means"].fill(np.nan))
    with pytest.raises(ArtifactError, match=r"full\.means holds NaN"):
        load(folder)


def test_a_misshapen_head(folder: Path) -> None:
    rewrite(folder, lambda arrays: arrays.update({"full.scale": np.ones(2, np.float32)}))
    with pytest.raises(ArtifactError, match=r"full\.scale has shape \(2,\)"):
        load(folder)


@pytest.mark.parametrize("name", ["heads.safetensors", "manifest.json"])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        load(folder)


def test_other_formats_are_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"format": 3', '"format": 9'))
    with pytest.raises(ArtifactError, match="format 9, this version reads 3"):
        load(folder)


def test_a_refused_save_leaves_what_was_there(trained: Artifact, folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    broken = {look: replace(heads, scale=heads.scale * np.nan) for look, heads in trained.heads.items()}
    with pytest.raises(ArtifactError, match="holds NaN"):
        save(replace(trained, heads=broken), folder)
    assert (folder / "manifest.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]
