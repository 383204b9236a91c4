"""Tests of `classifiers.static`."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from classifiers.encoder import word_pieces
from classifiers.static import StaticEncoder, distil, widened


def test_distilled_rows_are_centred_and_rare_pieces_weigh_more() -> None:
    embeddings = np.random.default_rng(0).normal(1, 1, (5000, 16)).astype(np.float32)
    table = distil(embeddings).astype(np.float32)
    lengths = np.linalg.norm(table, axis=1)
    assert lengths[:5].mean() < lengths[-500:].mean() / 10
    np.testing.assert_allclose((table / lengths[:, None]).mean(axis=0), 0, atol=0.03)


def test_every_finite_half_is_widened_exactly() -> None:
    bits = np.arange(-(1 << 15), 1 << 15, dtype=np.int16)
    finite = bits[np.isfinite(bits.view(np.float16))]
    wide = widened(finite) * np.float32(2.0**112)
    assert wide.tobytes() == finite.view(np.float16).astype(np.float32).tobytes()


WORDS = [f"w{number}" for number in range(200)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]


@pytest.fixture
def encoder(tmp_path: Path) -> tuple[StaticEncoder, NDArray[np.float16]]:
    """An encoder of few words, and its table."""
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    table = np.random.default_rng(1).normal(0, 0.1, (len(VOCABULARY), 8)).astype(np.float16)
    np.save(tmp_path / "static.npy", table)
    word_pieces.cache_clear()
    return StaticEncoder(tmp_path / "static.npy", tmp_path / "tokenizer.json", "tiny"), table


@pytest.mark.parametrize("words", [WORDS[:1], WORDS[:5], WORDS[150:160], WORDS, [*reversed(WORDS), *WORDS[:50]]])
def test_a_vector_is_the_direction_of_its_rows_sum(
    encoder: tuple[StaticEncoder, NDArray[np.float16]], words: list[str]
) -> None:
    embedder, table = encoder
    total = sum((table[VOCABULARY.index(word)].astype(np.float64) for word in words), np.zeros(8))
    (alone,) = embedder.encode([" ".join(words)])
    np.testing.assert_allclose(alone, total / np.linalg.norm(total), rtol=1e-5, atol=1e-6)
    together = embedder.encode(["w7 w199", " ".join(words), ""])
    assert together[1].tobytes() == alone.tobytes()


def test_a_text_without_pieces_has_the_unknown_pieces_vector(
    encoder: tuple[StaticEncoder, NDArray[np.float16]],
) -> None:
    embedder, table = encoder
    unknown = table[1].astype(np.float32)
    np.testing.assert_allclose(embedder.encode(["   "])[0], unknown / np.linalg.norm(unknown), rtol=1e-5)
