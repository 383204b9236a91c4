"""Vectors are faithful to the reference, independent of their batch-mates, and the same every time."""

import threading
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from classifiers import prepare
from classifiers.encoder import MAX_CHARACTERS, MAX_PIECES, Encoder, WordPieces, readable, window
from classifiers.prepare import MINILM, Encoders, load, load_full

SUBJECTS = (
    "the fall of Rome", "a lock-free queue", "Fourier transforms", "compound interest", "my cat's diet", "tort law",
    "la révolution française", "量子计算", "квантовая механика", "البرمجة", "日本の歴史", "γ-ray bursts", "🚀 startups",
)  # fmt: skip
FRAMES = (
    "{}", "What is {}?", "Explain {} to a ten-year-old, step by step.", "Write a poem about {}.",
    "Pourquoi {} est-il important ?", "用中文解释{}", "Summarise in one line:\n\n{0} and {0}; then {0} again.",
    "def solve():\n    '''{}'''\n    return [x ** 2 for x in range(10) if x % 3]\n\nWhat does this print?",
    "A train leaves at 9:40 with 12 cars. About {}: which is right?\nA. 1/3\nB. $\\frac{{2}}{{5}}$\nC. None\nD. 42",
    "SELECT name, COUNT(*) FROM t WHERE topic = '{}' GROUP BY name HAVING COUNT(*) > 1;", "Translate to German: {}!",
    "ugh why does {} keep happening?? plz help asap", "Compare {} with its rivals in a table of three columns.",
    "Prove or refute: {} implies that n² + n is even for every n.", "{} | {} | {}",
    "I have read a lot on {} and still wonder. " * 5, "The history of {} is long. It begins with doubts. " * 12,
)  # fmt: skip
PROMPTS = [
    "",
    "hi",
    "?",
    "x" * 300,
    "\n\t ",
    *(frame.replace("{}", subject).format(subject) for frame in FRAMES for subject in SUBJECTS),
]
LONG = ["\n".join(PROMPTS[:40]), "The answer is hidden here. " * 400 + "What is the capital of France?"]


@pytest.fixture(scope="module")
def encoders(encoder_cache: Path) -> Encoders:
    return load(encoder_cache)


@pytest.fixture(scope="module")
def full_vectors(encoders: Encoders) -> np.ndarray:
    return encoders.full.encode(PROMPTS)


@pytest.fixture(scope="module")
def reference() -> Encoder:
    """The same weights run by sentence-transformers in float32."""
    pytest.importorskip("torch", reason="the reference needs the extra torch")
    source = prepare._from_package(MINILM)
    if not source:
        pytest.skip("the weights package is not installed")
    from classifiers.torch_encoder import TorchEncoder

    return TorchEncoder(str(source["model.safetensors"].parent), device="cpu", name=MINILM.name)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(axis=1)


def test_full_look_is_faithful_to_the_reference(
    encoders: Encoders, full_vectors: np.ndarray, reference: Encoder
) -> None:
    assert len(PROMPTS) > 200
    found = cosines(full_vectors, reference.encode(PROMPTS))
    assert found.min() >= 0.99, PROMPTS[int(found.argmin())]
    assert found.mean() >= 0.997


def test_both_runtimes_keep_the_same_ends_of_a_long_text(encoders: Encoders, reference: Encoder) -> None:
    assert cosines(encoders.full.encode(LONG), reference.encode(LONG)).min() >= 0.99
    assert encoders.full.name == reference.name
    assert encoders.full.dimension == reference.dimension


def test_the_tail_of_a_long_text_counts(encoders: Encoders) -> None:
    filler = "It rained in the valley and the river rose again. " * 200
    for encoder in (encoders.full, encoders.static):
        asked = encoder.encode([filler + "Write a Rust function that sorts a list.", filler])
        assert cosines(asked[:1], asked[1:])[0] < 0.9999


@pytest.mark.parametrize("look", ["static", "full"])
def test_a_vector_never_depends_on_its_batch_mates(encoders: Encoders, look: str) -> None:
    encoder: Encoder = getattr(encoders, look)
    together = encoder.encode(PROMPTS)
    backwards = encoder.encode(PROMPTS[::-1])[::-1]
    alone = np.vstack([encoder.encode([prompt]) for prompt in PROMPTS])
    assert np.array_equal(together, backwards)
    assert np.array_equal(together, alone)


def test_a_vector_never_depends_on_its_batch_mates_with_torch_on_a_cpu(reference: Encoder) -> None:
    some = [PROMPTS[1], PROMPTS[-1], PROMPTS[40]]
    assert np.array_equal(reference.encode(some), np.vstack([reference.encode([prompt]) for prompt in some]))


def test_threads_and_fresh_sessions_give_the_same_bits(
    encoders: Encoders, full_vectors: np.ndarray, encoder_cache: Path
) -> None:
    assert np.array_equal(load_full(encoder_cache, threads=3).encode(PROMPTS), full_vectors)
    found: dict[int, np.ndarray] = {}
    callers = [
        threading.Thread(target=lambda n=n: found.update({n: encoders.full.encode(PROMPTS[:30])})) for n in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4
    assert all(np.array_equal(vectors, full_vectors[:30]) for vectors in found.values())


@pytest.mark.parametrize("look", ["static", "full"])
def test_vectors_have_length_one_and_the_declared_shape(encoders: Encoders, look: str) -> None:
    encoder: Encoder = getattr(encoders, look)
    assert isinstance(encoder, Encoder)
    vectors = encoder.encode(PROMPTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(PROMPTS), encoder.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert encoder.encode([]).shape == (0, encoder.dimension)


@pytest.mark.parametrize("look", ["static", "full"])
def test_meaning_is_nearer_than_wording(encoders: Encoders, look: str) -> None:
    encoder: Encoder = getattr(encoders, look)
    dog, puppy, matrix = encoder.encode(
        ["my dog barks at strangers", "a puppy that growls at visitors", "invert a singular matrix in numpy"]
    )
    assert dog @ puppy > dog @ matrix


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(), max_size=200) | st.text("ab\ud800\udfff\x00 \n", max_size=40))
def test_any_text_has_a_finite_vector(encoders: Encoders, text: str) -> None:
    for encoder in (encoders.full, encoders.static):
        vector = encoder.encode([text])[0]
        assert np.isfinite(vector).all()
        assert abs(float(np.linalg.norm(vector)) - 1) < 1e-4


@given(length=st.integers(0, 2000), limit=st.integers(2, 600))
def test_a_window_is_all_of_the_text_or_two_halves(length: int, limit: int) -> None:
    head, tail = window(length, limit)
    assert head + tail == min(length, limit)
    assert head >= tail >= 0
    assert tail == 0 or head - tail <= 1


def test_a_megabyte_is_read_at_its_ends_only() -> None:
    assert len(readable("x" * 2 * MAX_CHARACTERS)) == 2 * MAX_CHARACTERS
    text = "head " * 100_000 + "tail " * 100_000
    assert readable(text).startswith("head ")
    assert readable(text).endswith("tail ")
    assert len(readable(text)) == 2 * MAX_CHARACTERS + 1


def test_pieces_fill_the_window_and_no_more(encoder_cache: Path) -> None:
    pieces = WordPieces(prepare.verify(encoder_cache).tokenizer)
    assert pieces.pieces("") == []
    assert len(pieces.pieces("word " * 100)) == 100
    assert len(pieces.pieces("word " * 1000)) == MAX_PIECES - 2


MARKS = (
    "[CLS]",
    "[mask]",
    "[MASK]",
    "don't",
    "c++ a_b",
    "\x00",
    "\x0b",
    "\x1c",
    "\x7f",
    "\x85",
    "\u2028",
    "\xa0",
    "\t\r\n",
    "é",
    "3.14",
    "q" * 101,
)


@given(st.lists(st.text(st.characters(codec="ascii")) | st.text() | st.sampled_from((*MARKS, *PROMPTS))).map("".join))
@settings(max_examples=300, deadline=None)
def test_words_have_the_pieces_that_the_tokenizer_gives_the_text(encoder_cache: Path, text: str) -> None:
    pieces, ours = _tokenizer_of(encoder_cache)
    assert ours.pieces(text, limit=10_000) == pieces.encode(readable(text), add_special_tokens=False).ids


@cache
def _tokenizer_of(encoder_cache: Path) -> tuple[Tokenizer, WordPieces]:
    file = prepare.verify(encoder_cache).tokenizer
    whole = Tokenizer.from_file(str(file))
    whole.no_padding()
    whole.no_truncation()
    return whole, WordPieces(file)


def test_a_tokenizer_without_the_markers_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordPiece({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"no \[CLS\] piece"):
        WordPieces(tmp_path / "tokenizer.json")


def test_a_folder_without_a_model_is_unavailable_not_a_crash(tmp_path: Path, reference: Encoder) -> None:
    from classifiers.encoder import EncoderUnavailable
    from classifiers.torch_encoder import TorchEncoder

    with pytest.raises(EncoderUnavailable, match="cannot load the encoder"):
        TorchEncoder(str(tmp_path))
