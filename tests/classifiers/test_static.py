"""Tests of `classifiers.static`."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from classifiers.encoder import word_pieces
from classifiers.static import StaticEncoder, distil, rarity


def test_distilled_rows_are_centred_directions_in_whole_numbers() -> None:
    embeddings = np.random.default_rng(0).normal(1, 1, (5000, 16)).astype(np.float32)
    exact = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    exact -= exact.mean(axis=0)
    table = distil(embeddings)
    assert table.dtype == np.int8
    assert np.abs(table).max() == 127
    np.testing.assert_allclose(table / 127 * np.abs(exact).max(), exact, atol=np.abs(exact).max() / 250)


def test_rare_pieces_weigh_more() -> None:
    weights = rarity(30_000)
    assert (np.diff(weights) > 0).all()
    assert weights[0] < 0.01
    assert 0.9 < weights[-1] < 1.0


WORDS = [f"w{number}" for number in range(200)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]


@pytest.fixture
def encoder(tmp_path: Path) -> tuple[StaticEncoder, NDArray[np.int8]]:
    """An encoder of few words, and its table."""
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    table = np.random.default_rng(1).integers(-127, 128, (len(VOCABULARY), 8), np.int8)
    np.save(tmp_path / "static.npy", table)
    word_pieces.cache_clear()
    return StaticEncoder(tmp_path / "static.npy", tmp_path / "tokenizer.json", "tiny"), table


@pytest.mark.parametrize("words", [WORDS[:1], WORDS[:5], WORDS[150:160], WORDS, [*reversed(WORDS), *WORDS[:50]]])
def test_a_vector_is_the_direction_of_its_rows_sum(
    encoder: tuple[StaticEncoder, NDArray[np.int8]], words: list[str]
) -> None:
    embedder, table = encoder
    rows, weights = [VOCABULARY.index(word) for word in words], rarity(len(VOCABULARY)).astype(np.float64)
    total = sum((weights[row] * table[row].astype(np.float64) for row in rows), np.zeros(8))
    (alone,) = embedder.encode([" ".join(words)])
    np.testing.assert_allclose(alone, total / np.linalg.norm(total), rtol=1e-5, atol=1e-6)
    together = embedder.encode(["w7 w199", " ".join(words), ""])
    assert together[1].tobytes() == alone.tobytes()


def test_a_text_without_pieces_has_the_unknown_pieces_vector(
    encoder: tuple[StaticEncoder, NDArray[np.int8]],
) -> None:
    embedder, table = encoder
    unknown = table[1].astype(np.float32)
    np.testing.assert_allclose(embedder.encode(["   "])[0], unknown / np.linalg.norm(unknown), rtol=1e-5)
