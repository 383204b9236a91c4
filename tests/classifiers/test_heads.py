"""The serving arithmetic against the plain way of computing it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.boost import Growth, grow
from classifiers.heads import (
    TREE_DEPTH,
    combine_full,
    combine_static,
    design,
    familiarity,
    sigmoid,
    softmax,
    tree_logits,
)
from classifiers.lexical import LEXICAL


def test_trees_are_followed_to_their_leaves() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((300, 5)).astype(np.float32)
    y = np.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 0.5], axis=1).astype(np.float32)
    trees = grow(x, y, np.ones_like(y), Growth(trees=20, smallest_leaf=5, features=1.0), seed=0)
    found = tree_logits(x, trees.features, trees.thresholds, trees.leaves)
    for row in range(0, 300, 37):
        expected = np.zeros(2)
        for tree in range(20):
            node = 0
            for _ in range(TREE_DEPTH):
                node = 2 * node + 1 + int(x[row, trees.features[tree, node]] > trees.thresholds[tree, node])
            expected += trees.leaves[tree * 2**TREE_DEPTH + node - (2**TREE_DEPTH - 1)]
        assert np.allclose(found[row], expected, atol=1e-4)
    assert ((found > 0) == (y > 0.5)).mean() > 0.85


def test_missing_labels_pull_on_nothing() -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((200, 3)).astype(np.float32)
    y = (x[:, :1] > 0).astype(np.float32)
    weights = np.ones_like(y)
    weights[100:] = 0.0
    flipped = y.copy()
    flipped[100:] = 1.0 - flipped[100:]
    growth = Growth(trees=5, smallest_leaf=5)
    first, second = grow(x, y, weights, growth, 0), grow(x, flipped, weights, growth, 0)
    assert np.array_equal(first.leaves, second.leaves)


def test_free_form_prompts_have_weights_of_their_own() -> None:
    facts = np.zeros((2, len(LEXICAL)), np.float32)
    facts[1, LEXICAL.index("options")] = 0.8
    x = design("full", np.ones((2, 3), np.float32), facts)
    half = x.shape[1] // 2
    assert x[0, half : half + 3].tolist() == [3.0, 3.0, 3.0]
    assert not x[1, half:-1].any()
    assert x[:, -1].tolist() == [1.0, 1.0]
    assert x[:, :3].tolist() == [[1.0] * 3] * 2


def test_familiarity_rises_from_nothing_to_one() -> None:
    found = familiarity(np.array([0.1, 0.4, 0.5, 0.9], np.float32), np.array([0.2, 0.4, 0.6], np.float32))
    assert np.allclose(found, [0.0, 0.0, 0.5, 1.0], atol=1e-6)


def test_clusters_count_by_familiarity_and_the_plain_head_where_a_free_form_prompt_is_strange() -> None:
    zero, one = np.zeros((3, 1), np.float32), np.ones((3, 1), np.float32)
    familiar, free = np.array([[0.0], [0.0], [1.0]], np.float32), np.array([[0.0], [1.0], [1.0]], np.float32)
    assert np.allclose(combine_full(one, one, one, one, one, familiar, free), 1.0)
    near = combine_full(zero, zero, zero, one, zero, familiar, free)[:, 0]
    assert near.tolist() == [0.0, 0.0, pytest.approx(1 / 6.5)]
    plain = combine_full(zero, zero, zero, zero, one, familiar, free)[:, 0]
    assert plain.tolist() == pytest.approx([0.5 / 4.5, 4.5 / 9.5, 0.5 / 6.5])
    linear = combine_full(zero, zero, one, zero, zero, familiar, free)[:, 0]
    assert linear.tolist() == pytest.approx([1 / 4.5, 2 / 9.5, 2 / 6.5])


def test_the_static_look_counts_its_members_as_the_full_look_does() -> None:
    random = np.random.default_rng(2)
    grown, own, plain, familiar = random.random((4, 50, 1)).astype(np.float32)
    free = (random.random((50, 1)) < 0.5).astype(np.float32)
    found = combine_static(grown, own, plain, familiar, free)
    nothing = np.zeros_like(own)
    whole = combine_full(nothing, grown, own, nothing, plain, familiar, free)
    others = combine_full(nothing + 1, nothing, nothing, nothing + 1, nothing, familiar, free)
    assert np.allclose(found * (1 - others), whole, atol=1e-6)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8))
def test_squashing_never_overflows(values: list[float]) -> None:
    z = np.array(values, np.float32)
    assert np.isfinite(sigmoid(z)).all()
    assert np.isclose(softmax(z).sum(), 1.0, atol=1e-5)
