"""What is learnt of errors: on made-up tasks whose errors are known, standard errors cover what they are of."""

import numpy as np

from classifiers.errors import PRIOR, fit_errors
from classifiers.heads import Array, probability_error, sigmoid
from policies.objective import gain_error
from policies.values import Success

SHARED = 0.8
OWN = np.array([0.2, 0.4, 0.6, 0.3])


def made(tasks: int, seed: int, rows: int = 120) -> tuple[list[str], Array, Array, Array]:
    """Tasks, scores, predicted logits, and the truth's probabilities of four models that err as stated."""
    random = np.random.default_rng(seed)
    names = [f"task-{number}" for number in range(tasks) for _ in range(rows)]
    logits = random.normal(0.5, 0.8, (tasks * rows, 1)) + np.array([-0.5, 0.0, 0.3, 0.8])
    off = SHARED * random.standard_normal((tasks, 1)) + OWN * random.standard_normal((tasks, len(OWN)))
    truth = sigmoid((logits + np.repeat(off, rows, axis=0)).astype(np.float32))
    scores = (random.random(truth.shape) < truth).astype(np.float32)
    return names, scores, logits.astype(np.float32), truth


def test_what_models_share_of_their_errors_is_told_from_their_own() -> None:
    names, scores, logits, _ = made(200, 0)
    shared, own = fit_errors(names, scores, logits)
    assert np.allclose(shared, SHARED, atol=0.15)
    assert np.allclose(own, OWN, atol=0.12)


def test_standard_errors_cover_on_new_tasks() -> None:
    gains, owns = [], []
    for seed in range(5):
        names, scores, logits, _ = made(60, 10 + seed)
        shared, own = fit_errors(names, scores, logits)
        _, _, predicted, truth = made(300, 50 + seed, rows=1)
        errors = probability_error(predicted, np.broadcast_to(np.hypot(own, shared), predicted.shape))
        common = errors * shared / np.hypot(own, shared)
        off = sigmoid(predicted) - truth
        owns.append(off / errors)
        for a, b in ((0, 1), (0, 3), (1, 2), (2, 3)):
            one, other = (
                [Success(0.5, error, shared=part) for error, part in zip(errors[:, m], common[:, m], strict=True)]
                for m in (a, b)
            )
            error = np.array([gain_error(x, y) for x, y in zip(one, other, strict=True)])
            assert (error < np.hypot(errors[:, a], errors[:, b])).all()
            gains.append((off[:, a] - off[:, b]) / error)
    for found in (np.array(gains), np.array(owns)):
        assert 0.64 < (np.abs(found) <= 1.0).mean() < 0.78
        assert 0.92 < (np.abs(found) <= 1.96).mean() < 0.98


def test_missing_scores_are_passed_over_and_few_tasks_lean_on_what_is_usual() -> None:
    names, scores, logits, _ = made(40, 3)
    scores[: len(scores) // 2, 3] = np.nan
    scores[:, 2] = np.nan
    shared, own = fit_errors(names, scores, logits)
    assert np.isfinite(shared).all()
    assert abs(shared[3] - SHARED) < 0.3
    assert own[2] > 0
    nothing = fit_errors([""] * 10, scores[:10], logits[:10])
    assert np.allclose(nothing[0], PRIOR)
    assert np.allclose(nothing[1], PRIOR)


def test_means_of_models_do_not_count_for_what_is_shared() -> None:
    names, scores, logits, _ = made(60, 4)
    mean = scores[:, :2].mean(axis=1, keepdims=True)
    with_mean = (
        np.concatenate([scores, mean], axis=1),
        np.concatenate([logits, logits[:, :2].mean(1, keepdims=True)], 1),
    )
    shared, _ = fit_errors(names, *with_mean, classes=1)
    assert np.allclose(shared[:-1], fit_errors(names, scores, logits)[0], atol=1e-5)


def test_a_benchmark_counts_once_however_many_tasks_it_has() -> None:
    names, scores, logits, _ = made(30, 5)
    calm, flat = [f"many/{n}" for n in range(300) for _ in range(30)], np.zeros((9000, 4), np.float32)
    random = np.random.default_rng(6)
    fair = (random.random(flat.shape) < 0.5).astype(np.float32)
    alone, _ = fit_errors(names, scores, logits)
    beside, _ = fit_errors([*names, *calm], np.concatenate([scores, fair]), np.concatenate([logits, flat]))
    assert beside[0] > 0.85 * alone[0]
