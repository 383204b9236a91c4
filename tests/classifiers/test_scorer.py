"""Tests of `classifiers.scorer`: one prompt at a time, as the formulas for many rows that training uses."""

import numpy as np
import pytest

from classifiers import heads as formulas
from classifiers.artifact import default_artifact, load
from classifiers.features import from_text
from classifiers.heads import Heads
from classifiers.lexical import lexical
from classifiers.ngrams import ngrams
from classifiers.scorer import Scorer

TEXTS = (
    "Tell me a joke",
    "Which gas is most abundant in air?\nA. Oxygen\nB. Nitrogen\nC. Argon\nD. Helium",
    "Prove that $\\sqrt{2}$ is irrational, then write `gcd(a, b)` in C++ without recursion.",
    "请用 C++ 写一个无锁队列，并解释内存序。",
    "a" * 3000,
    "",
)


@pytest.fixture(scope="module")
def looks() -> dict[str, Heads]:
    return dict(load(default_artifact()).heads)


def _by_row(
    looks: dict[str, Heads], look: str, vectors: formulas.Array, texts: tuple[str, ...]
) -> dict[str, formulas.Array]:
    """All of these at once, from the design that heads are fitted on, with nothing folded."""
    heads, words_of = looks[look], looks["lexical"]
    facts = np.stack([lexical(from_text(text)) for text in texts])
    words = formulas.design("lexical", vectors[:, :0], facts) @ words_of.weights
    words += np.stack([values @ words_of.table[indices] for indices, values in map(ngrams, texts)])
    plain = formulas.design("lexical", vectors[:, :0], facts) @ words_of.plain
    x, models = formulas.design(look, vectors, facts), len(heads.scale)
    trees = formulas.tree_input(vectors, facts, heads.projection)
    grown = formulas.tree_logits(trees, heads.features, heads.thresholds, heads.leaves)
    nearest = formulas.closeness(x, heads.places)
    familiar = formulas.familiarity(nearest, heads.reach)[:, None]
    logits, domains = formulas.combine_lexical(words[:, :models], grown, plain), words[:, models:]
    if look != "lexical":
        own, free = x @ heads.weights, formulas.free_form(facts)[:, None]
        logits = formulas.combine_static(grown, own[:, :models], plain, familiar, free)
        if look == "full":
            near = formulas.cluster_logits(vectors, heads.centroids, heads.means)
            logits = formulas.combine_full(words[:, :models], grown, own[:, :models], near, plain, familiar, free)
        share = formulas.NGRAM_DOMAINS[look]
        domains = share * domains + (1 - share) * own[:, models:]
    noise = formulas.blend(familiar, heads.noise)
    return {
        "logits": logits * heads.scale + heads.shift,
        "errors": np.sqrt(formulas.posterior_variance(x, heads.spread) + np.square(noise)),
        "shared": np.broadcast_to(formulas.blend(familiar, heads.shared), noise.shape),
        "domains": formulas.softmax(domains),
        "far": nearest < heads.reach[0],
    }


@pytest.mark.parametrize("look", ["lexical", "static", "full"])
def test_one_prompt_is_answered_as_many_rows_are(looks: dict[str, Heads], look: str) -> None:
    width = len(looks[look].projection)
    known = looks[look].places[:, :width]  # places near, far and between
    vectors = np.random.default_rng(3).normal(size=(len(TEXTS), width)).astype(np.float32)
    if len(known):
        vectors[0], vectors[1] = known[0], known[1] + 0.02 * vectors[1]
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-9))
    scorer, expected = Scorer(looks, look), _by_row(looks, look, vectors, TEXTS)
    for row, text in enumerate(TEXTS):
        found = scorer.score(vectors[row], lexical(from_text(text)), ngrams(text))
        for part in ("logits", "errors", "shared", "domains"):
            np.testing.assert_allclose(getattr(found, part), expected[part][row], rtol=1e-4, atol=1e-5)
        assert found.far is bool(expected["far"][row])
    assert look == "lexical" or set(expected["far"].tolist()) == {True, False}


@pytest.mark.parametrize("look", ["lexical", "static", "full"])
def test_some_models_are_answered_for_as_all_are(looks: dict[str, Heads], look: str) -> None:
    vector = np.zeros(len(looks[look].projection), np.float32)
    vector[:1] = 1.0
    some, every = Scorer(looks, look, [10, 2, 11]), Scorer(looks, look)
    for text in TEXTS:
        given = vector, lexical(from_text(text)), ngrams(text)
        found, whole = some.score(*given), every.score(*given)
        for part in ("logits", "errors", "shared"):
            wanted = [getattr(whole, part)[model] for model in (10, 2, 11)]
            np.testing.assert_allclose(getattr(found, part), wanted, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.domains, whole.domains, rtol=1e-5, atol=1e-7)


def test_a_look_that_reads_n_grams_is_not_answered_without_them(looks: dict[str, Heads]) -> None:
    facts = lexical(from_text(TEXTS[0]))
    for look in ("lexical", "full"):
        with pytest.raises(ValueError, match=f"the {look} look reads n-grams"):
            Scorer(looks, look).score(np.zeros(len(looks[look].projection), np.float32), facts, None)
    vector = np.eye(1, len(looks["static"].projection), dtype=np.float32)[0]
    scorer = Scorer(looks, "static")
    assert scorer.score(vector, facts, None) == scorer.score(vector, facts, ngrams(TEXTS[0]))
