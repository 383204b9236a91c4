"""Fitting one look's members on some rows, and asking them about rows they never saw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]

from classifiers import labels
from classifiers.boost import Growth, Trees, grow
from classifiers.datasets import Row, read
from classifiers.embed import Progress, Table, tabulate
from classifiers.encoder import Encoder
from classifiers.fit import Design, Penalty, fit_logistic, platt
from classifiers.heads import (
    NEARNESS,
    Array,
    closeness,
    cluster_logits,
    combine_full,
    combine_lexical,
    combine_static,
    design,
    directions,
    familiarity,
    free_form,
    softmax,
    tree_input,
    tree_logits,
)

EVERYDAY = Path(__file__).parent / "data" / "domain_prompts.jsonl"
"""Everyday prompts with domains, written for this project: how people ask, which benchmarks don't show. Those of the
task ``hard`` ask for an expert's work in as few words."""

FOLDS = 5

CLUSTERS = 256

PLACES = {"static": 64, "full": 256}
"""Places that a look compares a prompt with: the first look is taken of every request, and its time counts."""

COMPONENTS = 16

BLOCK = 1 << 14

SAMPLE = 50_000
"""Rows that are in memory at once: what linear heads are fitted on shard by shard, and what the parts that do not need
more (trees, clusters, spread, domains) are fitted on at all."""

LATER_ITERATIONS = 30
"""The most steps on a shard after the first, which begins where the shards before it ended."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Settings:
    """What shapes a training run; the defaults are those of the default artifact (see README.md for what lost).

    Penalties hold for 7,000 scored rows and grow with the square root of their number.
    """

    seed: int = 0
    lexical: Penalty = field(default_factory=lambda: Penalty(2.0, 4.0))
    vector: Penalty = field(default_factory=lambda: Penalty(10.0, 20.0))
    plain: Penalty = field(default_factory=lambda: Penalty(2.0, 10.0))
    growth: Growth = field(default_factory=Growth)
    domain_penalty: float = 10.0
    ngram_domain_penalty: float = 0.3
    shrink: float = 5.0
    """Rows' worth of prior on a cluster's mean."""
    iterations: int = 50
    """The most steps that fitting a linear head may take."""

    def penalty(self, look: str, rows: int) -> Penalty:
        """The penalty of a look's success heads for that many scored rows."""
        return self.scaled(self.lexical if look == "lexical" else self.vector, rows)

    def scaled(self, base: Penalty, rows: int) -> Penalty:
        """A penalty for that many scored rows."""
        factor = sqrt(max(rows, 100) / 7000)
        return Penalty(base.shared * factor, base.own * factor)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Scored rows with size-class columns, and the everyday prompts with assumed scores for those columns only."""

    rows: Table
    everyday: Table

    @property
    def models(self) -> tuple[str, ...]:
        """The success columns."""
        return self.rows.models

    @property
    def looks(self) -> tuple[str, ...]:
        """Every look that can be trained, the lexical one first."""
        return ("lexical", *self.rows.vectors)


def corpus(
    rows: Iterable[Row], encoders: Mapping[str, Encoder], work: Path, progress: Progress | None = None
) -> Corpus:
    """Read and encode what training and evaluation need; see `train` for ``work``.

    Raises `ValueError` when no row has a score.
    """
    table = tabulate(rows, encoders, work / "rows", progress)
    return assemble(table, tabulate(read([EVERYDAY]), encoders, work / "everyday", progress))


def assemble(table: Table, everyday: Table) -> Corpus:
    """The corpus of a table of rows and one of the everyday prompts. Raises `ValueError` when no row has a score."""
    if not np.isfinite(table.scores).any():
        raise ValueError("no row has scores: give rows {'id', 'prompt', 'scores': {model: 0..1}}")
    models, scores = labels.with_classes(table.models, table.scores, table.tasks)
    table = _with_hard_priors(replace(table, models=models, scores=scores))
    weights = np.full(len(everyday), labels.PRIOR_WEIGHT, np.float32)
    scores = labels.everyday_priors(models, everyday.domains, everyday.tasks)
    return Corpus(table, replace(everyday, models=models, scores=scores, weights=weights))


def _with_hard_priors(table: Table) -> Table:
    """Fill hard prompts without any score by what is assumed of the size classes, at a low weight."""
    scores, weights = table.scores.copy(), table.weights.copy()
    for row in np.flatnonzero(~np.isfinite(scores).any(axis=1)):
        prior = labels.hard_prior(table.ids[row])
        if prior:
            scores[row, -len(prior) :] = prior
            weights[row] *= labels.PRIOR_WEIGHT
    return replace(table, scores=scores, weights=weights)


@dataclass(frozen=True, slots=True)
class Member:
    """What is fitted for one look on one set of rows, before calibration: see `heads.Heads` for the parts."""

    linear: Array
    plain: Array
    projection: Array
    trees: Trees
    centroids: Array
    means: Array
    places: Array
    reach: Array


@dataclass(frozen=True, slots=True)
class Held:
    """Held-out answers of one look: uncalibrated logits (n, models), familiarity (n,), and the rows' folds."""

    logits: Array
    familiar: Array
    folds: Rows


def fold_of(ids: Sequence[str], seed: int, folds: int = FOLDS) -> Rows:
    """A row's fold, from a hash of its id and the seed: the same whatever stands beside it."""
    digests = (blake2b(f"{seed}:{i}".encode(), digest_size=4).digest() for i in ids)
    return np.array([int.from_bytes(d, "big") % folds for d in digests], np.int64)


def group_folds(tasks: Sequence[str], folds: int | None = None) -> Rows:
    """Folds that keep each task whole: one per task, or ``folds`` of about equal size."""
    names, counts = np.unique(np.array(tasks), return_counts=True)
    sizes = np.zeros(min(folds or len(names), len(names)))
    fold = {}
    for i in np.lexsort((names, -counts)):
        smallest = int(np.argmin(sizes))
        fold[str(names[i])] = smallest
        sizes[smallest] += counts[i]
    return np.array([fold[t] for t in tasks], np.int64)


def held_out(
    data: Corpus,
    folds: Rows,
    settings: Settings,
    progress: Progress | None = None,
    *,
    labels_at_most: int | None = None,
    looks: Sequence[str] | None = None,
) -> dict[str, Held]:
    """By look, what heads that never saw a row's fold say of it.

    ``labels_at_most`` trains on that many rows of the other folds only (learning curves). Rows in fold -1 are trained
    on and never tested.
    """
    wanted = data.looks if looks is None else tuple(dict.fromkeys(("lexical", *looks)))
    shape = data.rows.scores.shape
    found = {look: Held(np.zeros(shape, np.float32), np.zeros(shape[0], np.float32), folds) for look in wanted}
    numbers = sorted(set(folds.tolist()) - {-1})
    for done, fold in enumerate(numbers):
        if progress:
            progress("hold out", done, len(numbers))
        test = np.flatnonzero(folds == fold)
        seen = np.flatnonzero((folds != fold) & np.isfinite(data.rows.scores).any(axis=1))
        if labels_at_most is not None and labels_at_most < len(seen):
            seen = np.sort(np.random.default_rng(settings.seed).choice(seen, labels_at_most, replace=False))
        members = {look: fit_member(data, look, seen, settings) for look in wanted}
        for start in range(0, len(test), BLOCK):
            at = test[start : start + BLOCK]
            words = design_of(data.rows, "lexical", at) @ members["lexical"].linear
            plain = _facts_of(data.rows, at) @ members["lexical"].plain
            for look, member in members.items():
                found[look].logits[at], found[look].familiar[at] = _answer(member, data.rows, look, at, words, plain)
    return found


def _answer(member: Member, table: Table, look: str, at: Rows, words: Array, plain: Array) -> tuple[Array, Array]:
    """A member's uncalibrated logits and familiarity, as a `scorer.Scorer` makes them."""
    vectors, trees = vectors_of(table, look, at), member.trees
    x = tree_input(vectors, table.facts[at], member.projection)
    grown = tree_logits(x, trees.features, trees.thresholds, trees.leaves)
    if look == "lexical":
        return combine_lexical(words, grown, plain), np.ones(len(at), np.float32)
    dense = design_of(table, look, at)
    familiar = familiarity(closeness(dense, member.places), member.reach)
    own, kind = dense @ member.linear, (familiar[:, None], free_form(table.facts[at])[:, None])
    if look == "static":
        return combine_static(grown, own, plain, *kind), familiar
    near = cluster_logits(vectors, member.centroids, member.means)
    return combine_full(words, grown, own, near, plain, *kind), familiar


def fit_member(data: Corpus, look: str, rows: Rows, settings: Settings) -> Member:
    """Fit one look on those scored rows and the everyday prompts."""
    return Member(
        fit_success(data, look, rows, settings),
        fit_plain(data, rows, settings) if look == "lexical" else np.zeros((0, len(data.models)), np.float32),
        *_fit_trees(data, look, rows, settings),
        *_fit_clusters(data, look, rows, settings),
        *_fit_places(data, look, rows, settings),
    )


def fit_success(data: Corpus, look: str, rows: Rows, settings: Settings) -> Array:
    """One look's linear weights (depth, models) from those scored rows and the everyday prompts.

    Of more than `SAMPLE` rows each shard is fitted from where the ones before it ended, under its share of the penalty,
    and the mean of the shards' weights counts: one pass, one shard in memory (Zhang, Duchi and Wainwright, 1209.4129).
    """
    shards = max(1, -(-len(rows) // SAMPLE))
    whole = settings.penalty(look, len(rows))
    penalty = Penalty(whole.shared / shards, whole.own / shards)
    everyday = (data.everyday, np.arange(len(data.everyday)), np.float32(1.0 / shards))
    mean: Array | None = None
    for shard in range(shards):
        blocks = list(_blocks(look, [(data.rows, rows[shard::shards], np.float32(1.0)), everyday]))
        steps = settings.iterations if mean is None else LATER_ITERATIONS
        fitted = fit_logistic(partial(iter, blocks), _depth(data, look), len(data.models), penalty, steps, mean)
        mean = fitted if mean is None else mean + (fitted - mean) / np.float32(shard + 1)
    assert mean is not None
    return mean


def fit_plain(data: Corpus, rows: Rows, settings: Settings) -> Array:
    """Weights (2 · (lexical facts + 1), models) of the facts alone, each task with an intercept of its own.

    What sets tasks apart is left to those intercepts, which are dropped: the weights say what makes a prompt harder
    than others of its kind, and that holds best on kinds never seen.
    """
    rows = spread(rows, SAMPLE)
    parts = [(data.rows, rows), (data.everyday, np.arange(len(data.everyday)))]
    tasks = np.concatenate([np.array(data.rows.tasks)[rows], [f"everyday/{task}" for task in data.everyday.tasks]])
    names, place = np.unique(tasks, return_inverse=True)
    x = sparse.hstack(
        [
            sparse.csr_matrix((np.ones(len(tasks), np.float32), (np.arange(len(tasks)), place))),
            sparse.csr_matrix(np.concatenate([_facts_of(table, at) for table, at in parts])),
        ],
        format="csr",
    )
    y = np.concatenate([table.scores[at] for table, at in parts])
    weights = np.isfinite(y) * np.concatenate([table.weights[at] for table, at in parts])[:, None]
    block = (x, np.nan_to_num(y), weights.astype(np.float32))
    penalty = settings.scaled(settings.plain, len(rows))
    return fit_logistic(lambda: iter([block]), x.shape[1], len(data.models), penalty, settings.iterations)[len(names) :]


def _facts_of(table: Table, rows: Rows) -> Array:
    return design("lexical", np.zeros((len(rows), 0), np.float32), table.facts[rows])


def _blocks(look: str, parts: Sequence[tuple[Table, Rows, np.float32]]) -> Iterator[tuple[Design, Array, Array]]:
    """What `fit_logistic` reads of some rows of some tables, whose weights are scaled."""
    for table, wanted, scale in parts:
        for start in range(0, len(wanted), BLOCK):
            at = wanted[start : start + BLOCK]
            y = table.scores[at]
            known = np.isfinite(y)
            weights = known * (table.weights[at, None] * scale)
            yield design_of(table, look, at), np.where(known, y, np.float32(0)), weights


def spread(rows: Rows, most: int) -> Rows:
    """At most so many of some rows, evenly spread over them: all, or every k-th."""
    return rows[:: max(1, -(-len(rows) // most))]


def _fit_trees(data: Corpus, look: str, rows: Rows, settings: Settings) -> tuple[Array, Trees]:
    """The projection (principal components of the vectors), and the trees; on a sample of very many rows."""
    rows = spread(rows, SAMPLE)
    everyday = np.arange(len(data.everyday))
    vectors = np.concatenate([vectors_of(data.rows, look, rows), vectors_of(data.everyday, look, everyday)])
    facts = np.concatenate([data.rows.facts[rows], data.everyday.facts[everyday]])
    y = np.concatenate([data.rows.scores[rows], data.everyday.scores[everyday]])
    weights = np.isfinite(y) * np.concatenate([data.rows.weights[rows], data.everyday.weights])[:, None]
    projection = _components(vectors, COMPONENTS)
    x = tree_input(vectors, facts, projection)
    return projection, grow(x, np.nan_to_num(y), weights.astype(np.float32), settings.growth, settings.seed)


def _components(vectors: Array, count: int) -> Array:
    """The first principal directions (d, count), each with its largest entry positive."""
    centred = vectors - vectors.mean(axis=0)
    _, found = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    found = found[:, ::-1][:, :count]
    signs = np.sign(found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])]) if found.size else 1.0
    return np.asarray(found * signs, np.float32)


def _fit_clusters(data: Corpus, look: str, rows: Rows, settings: Settings) -> tuple[Array, Array]:
    """Clusters' centroids by their vectors, everyday prompts included, and their shrunken mean success as logits; none
    where they are not read."""
    if look != "full":
        width = vectors_of(data.rows, look, rows[:0]).shape[1]
        return np.zeros((0, width), np.float32), np.zeros((0, len(data.models)), np.float32)
    rows = spread(rows, SAMPLE)
    everyday = np.arange(len(data.everyday))
    vectors = np.concatenate([vectors_of(data.rows, look, rows), vectors_of(data.everyday, look, everyday)])
    y = np.concatenate([data.rows.scores[rows], data.everyday.scores[everyday]])
    weights = np.isfinite(y) * np.concatenate([data.rows.weights[rows], data.everyday.weights])[:, None]
    centroids = _centroids(vectors, CLUSTERS, settings)
    near = softmax(np.float32(NEARNESS) * (vectors @ centroids.T))
    overall = (np.nan_to_num(y) * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), 1)
    mean = (near.T @ (np.nan_to_num(y) * weights) + settings.shrink * overall) / (near.T @ weights + settings.shrink)
    mean = np.clip(mean, 0.01, 0.99)
    return centroids, np.log(mean / (1 - mean)).astype(np.float32)


def _fit_places(data: Corpus, look: str, rows: Rows, settings: Settings) -> tuple[Array, Array]:
    """Where prompts stood, by vector and facts, and the reach (see `heads.Heads`).

    Apart from `_fit_clusters`: facts tell a strange kind of prompt better, and the success of what is near worse.
    """
    if look == "lexical":
        return np.zeros((0, 0), np.float32), np.array([-1, 0, 1], np.float32)
    rows = spread(rows, SAMPLE)
    everyday = np.arange(len(data.everyday))
    dense = np.concatenate([design_of(data.rows, look, rows), design_of(data.everyday, look, everyday)])
    stood = directions(dense, data.rows.vectors[look].shape[1] + data.rows.facts.shape[1])
    places = _centroids(stood, PLACES[look], settings)
    reach = np.quantile((stood @ places.T).max(axis=1), [0.005, 0.05, 0.95])
    return places, reach.astype(np.float32)


def _centroids(points: Array, most: int, settings: Settings) -> Array:
    """Centres (at most so many, d) of length 1, by k-means."""
    from sklearn.cluster import MiniBatchKMeans

    count = max(1, min(most, len(points) // 6))
    model = MiniBatchKMeans(count, random_state=settings.seed, n_init=1, batch_size=2048).fit(points)
    return directions(np.asarray(model.cluster_centers_, np.float32), points.shape[1])


def vectors_of(table: Table, look: str, rows: Rows) -> Array:
    """A look's vectors (len(rows), d) in float32; the lexical look has none, so d is 0."""
    if look == "lexical":
        return np.zeros((len(rows), 0), np.float32)
    return np.asarray(table.vectors[look][rows], np.float32)


def design_of(table: Table, look: str, rows: Rows) -> Design:
    """The input of a look's linear head: `heads.design`, and in the lexical look the n-grams before it."""
    dense = design(look, vectors_of(table, look, rows), table.facts[rows])
    if look != "lexical":
        return dense
    return sparse.hstack([table.grams.matrix(rows), sparse.csr_matrix(dense)], format="csr", dtype=np.float32)


def _depth(data: Corpus, look: str) -> int:
    return int(design_of(data.rows, look, np.arange(1)).shape[1])


def calibrate(held: Array, scores: Array) -> tuple[Array, Array]:
    """Platt's scale and shift (models,) from held-out logits; a model without 50 scores keeps (1, 0)."""
    scale, shift = np.ones(held.shape[1], np.float32), np.zeros(held.shape[1], np.float32)
    for column in range(held.shape[1]):
        rows = np.isfinite(scores[:, column])
        if rows.sum() >= 50:
            z, y = held[rows, column].astype(np.float64), scores[rows, column].astype(np.float64)
            scale[column], shift[column] = platt(z, y)
    return scale, shift


def probability(logits: Array) -> Array:
    """Logits to probabilities, held away from overflow."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -30, 30))), np.float32)
