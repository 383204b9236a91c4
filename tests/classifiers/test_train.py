"""Training: what it learns, resumes, refuses; evaluation that never looks at what it is judged on."""

from pathlib import Path

import numpy as np
import pytest

from classifiers import evaluate, labels, members, metrics, train
from classifiers.artifact import Artifact, ArtifactError, save
from classifiers.boost import Growth
from classifiers.datasets import Row
from classifiers.embed import tabulate
from classifiers.evaluate import EvaluationError, Prices
from classifiers.features import from_text
from classifiers.fit import Penalty, fit_logistic, platt
from classifiers.lexical import LEXICAL
from classifiers.onboard import onboard
from tests.classifiers.small_world import BagEncoder, rows

QUICK = members.Settings(growth=Growth(trees=10), iterations=15)
PAIR = ("tiny-7b", "big-70b")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> members.Corpus:
    return members.corpus(rows(500), {"full": BagEncoder()}, tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def scored(data: members.Corpus) -> evaluate.Scored:
    return evaluate.from_folds(data, "full", PAIR, Prices({}), settings=QUICK)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    work = tmp_path_factory.mktemp("work")
    return save(train.train(rows(), {"full": BagEncoder()}, work, QUICK), work / "artifact")


def test_held_out_predictions_rank_by_gain(scored: evaluate.Scored) -> None:
    report = evaluate.pair_report(scored, bootstrap=50)
    assert report["router"]["apgr"]["value"] > 0.68
    assert report["router"]["apgr"]["low"] > report["length_only"]["apgr"]["value"]
    assert report["oracle"]["apgr"]["value"] > report["router"]["apgr"]["value"]
    assert report["calibration"]["tiny-7b"]["ece"]["value"] < 0.08
    assert 0.3 < report["keep_quality"]["0.90"]["share_small"] < 0.8


def test_the_plain_head_learns_what_holds_within_each_task(tmp_path: Path) -> None:
    """Decimals make a prompt harder than others of its task, and stand in the easier task (Simpson's paradox)."""
    random = np.random.default_rng(0)
    world = []
    for number in range(800):
        task, decimal = ("shop", random.random() < 0.8) if number % 2 else ("proof", random.random() < 0.2)
        chance = {"shop": 0.9, "proof": 0.4}[task] - 0.3 * decimal
        text = f"Sum {'4.5' if decimal else '45'} and {number}."
        world.append(Row(str(number), from_text(text), task, {"tiny-7b": float(random.random() < chance)}))
    data = members.corpus(world, {}, tmp_path)
    weights = members.fit_plain(data, np.arange(len(world)), members.Settings())
    assert weights[LEXICAL.index("decimals"), data.models.index("tiny-7b")] < -0.2


def test_choosing_among_models(scored: evaluate.Scored) -> None:
    report = evaluate.fleet_report(scored, bootstrap=20)
    assert report["best_single"]["model"] == "big-70b"
    assert report["cost_at_best"]["value"] < 0.75


def test_a_model_both_cheaper_and_better_is_nearly_always_chosen(tmp_path: Path) -> None:
    """The negative control: there is nothing to route, and the router must not find something."""
    world = [
        Row(r.id, r.features, r.task, {"good-7b": s["big-70b"], "bad-70b": s["tiny-7b"]})
        for r in rows(500)
        for s in [r.scores]
    ]
    data = members.corpus(world, {"full": BagEncoder()}, tmp_path)
    prices = Prices({"good-7b": (0.1, 0.1), "bad-70b": (1.0, 1.0)})
    found = evaluate.from_folds(data, "full", ("good-7b", "bad-70b"), prices, settings=QUICK)
    assert (evaluate.choices(found, 1, guard=0.5)[len(evaluate.LAMBDAS) // 2] == 0).mean() > 0.97


def test_nothing_is_learnt_from_noise(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    noise = [Row(r.id, r.features, r.task, {m: float(random.random() < 0.5) for m in PAIR}) for r in rows(500)]
    found = evaluate.from_folds(
        members.corpus(noise, {"full": BagEncoder()}, tmp_path), "full", PAIR, Prices({}), settings=QUICK
    )
    gain = found.p[:, 1] - found.p[:, 0]
    assert np.abs(gain).mean() < 0.12
    assert metrics.ece(found.honest[:, 0], found.y[:, 0], bins=5) < 0.1


def test_a_row_is_never_judged_by_heads_that_saw_it(data: members.Corpus) -> None:
    """Flip one fold's labels: its own held-out predictions stay, the others' change."""
    folds = members.fold_of(data.rows.ids, 0)
    before = members.held_out(data, folds, QUICK)["full"].logits
    flipped = data.rows.scores.copy()
    flipped[folds == 0] = 1.0 - flipped[folds == 0]
    from dataclasses import replace

    after = members.held_out(replace(data, rows=replace(data.rows, scores=flipped)), folds, QUICK)["full"].logits
    assert np.array_equal(before[folds == 0], after[folds == 0])
    assert not np.array_equal(before[folds == 1], after[folds == 1])


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    encoder = BagEncoder()
    tabulate(list(rows(600))[:512], {"full": encoder}, tmp_path)
    assert encoder.calls == 512
    table = tabulate(rows(600), {"full": encoder}, tmp_path)
    assert encoder.calls == 600
    assert np.allclose(
        table.vectors["full"][-1], BagEncoder().encode([list(rows(600))[-1].features.text])[0], atol=1e-3
    )


def test_changed_rows_are_encoded_again(tmp_path: Path) -> None:
    tabulate(rows(300, seed=1), {"full": BagEncoder()}, tmp_path)
    found = tabulate(rows(300, seed=2), {"full": BagEncoder()}, tmp_path).vectors["full"]
    assert np.array_equal(found, tabulate(rows(300, seed=2), {"full": BagEncoder()}, tmp_path / "new").vectors["full"])


def test_shards_make_about_what_all_rows_at_once_make(
    data: members.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, fresh = np.arange(len(data.rows)), tabulate(rows(200, seed=9), {"full": BagEncoder()}, tmp_path)
    whole = {look: members.fit_success(data, look, every, members.Settings()) for look in data.looks}
    monkeypatch.setattr(members, "SAMPLE", 170)
    for look, weights in whole.items():
        x = members.design_of(fresh, look, np.arange(200))
        parts = members.fit_success(data, look, every, members.Settings())
        assert not np.array_equal(parts, weights)
        apart = members.probability(x @ parts) - members.probability(x @ weights)
        assert np.abs(apart).mean() < 0.03


def test_a_log_beyond_what_is_held_in_memory_trains_to_the_same_bytes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "SAMPLE", 150)
    monkeypatch.setattr(train, "SAMPLE", 150)
    monkeypatch.setattr(train, "HELD", 120)
    for name in ("one", "two"):
        found = train.train(rows(500), {"full": BagEncoder()}, tmp_path / f"{name}-work", QUICK)
        save(found, tmp_path / name)
    for file in ("heads.safetensors", "manifest.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert found.about["rows"] == 500
    assert found.about["sampled"] == {"calibration, errors, keeping": 100, "trees, clusters, places, plain head": 125}
    assert found.about["figures"]["full"]["tiny-7b"]["rows"] <= 120
    table = tabulate(rows(300, seed=9), {"full": BagEncoder()}, tmp_path / "test")
    judged = evaluate.from_artifact(found, table, "full", PAIR, Prices({}))
    assert metrics.apgr(judged.p[:, 1] - judged.p[:, 0], judged.y[:, 0], judged.y[:, 1]) > 0.66
    assert metrics.ece(judged.p[:, 0], judged.y[:, 0], bins=5) < 0.12


def test_some_rows_of_a_table(data: members.Corpus) -> None:
    few = np.array([5, 3, 100])
    part = data.rows.take(few)
    assert part.ids == tuple(data.rows.ids[i] for i in few)
    again = part.take(np.array([1]))
    assert again.ids == (data.rows.ids[3],)
    assert (again.grams.matrix(np.array([0])) != data.rows.grams.matrix(np.array([3]))).nnz == 0
    assert np.array_equal(part.facts, data.rows.facts[few])


def test_rows_without_scores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no row has scores"):
        train.train([Row("a", from_text("hi"))], {}, tmp_path)


def test_groups_stay_whole() -> None:
    folds = members.group_folds(["a", "a", "b", "c", "c", "c"], 2)
    assert folds.tolist() == [1, 1, 1, 0, 0, 0]
    assert len(set(members.group_folds(["a", "b", "c"]).tolist())) == 3


def test_unknown_models_name_a_row(artifact: Artifact, tmp_path: Path) -> None:
    table = tabulate(rows(20, models=("tiny-7b", "new-9b")), {"full": BagEncoder()}, tmp_path)
    with pytest.raises(EvaluationError, match="row '0-0' names the model 'new-9b'"):
        evaluate.from_artifact(artifact, table, "full", ("tiny-7b", "new-9b"), Prices({}))
    with pytest.raises(EvaluationError, match="no row names the model 'other'"):
        evaluate.from_artifact(artifact, table, "full", ("tiny-7b", "other"), Prices({}))


def test_an_artifact_is_judged_on_new_rows(artifact: Artifact, tmp_path: Path) -> None:
    table = tabulate(rows(300, seed=9), {"full": BagEncoder()}, tmp_path)
    found = evaluate.from_artifact(artifact, table, "full", PAIR, Prices({}))
    assert metrics.apgr(found.p[:, 1] - found.p[:, 0], found.y[:, 0], found.y[:, 1]) > 0.68


def test_onboarding_learns_a_models_ability(artifact: Artifact, tmp_path: Path) -> None:
    fresh = [Row(r.id, r.features, r.task, {"new-9b": s["big-70b"]}) for r in rows(250, seed=3) for s in [r.scores]]
    found = save(onboard(artifact, fresh, {"full": BagEncoder()}, tmp_path), tmp_path / "onboarded")
    assert "new-9b" in found.models
    table = tabulate(rows(200, seed=4), {"full": BagEncoder()}, tmp_path / "test")
    every = np.arange(len(table))
    logits = np.stack([prediction.logits for prediction in evaluate.predict_table(found, "full", table, every)])
    like, unlike = (found.models.index(m) for m in ("big-70b", "tiny-7b"))
    new = logits[:, found.models.index("new-9b")]
    assert np.abs(new - logits[:, like]).mean() < np.abs(new - logits[:, unlike]).mean()
    tiny = artifact.models.index("tiny-7b")
    before = [prediction.logits[tiny] for prediction in evaluate.predict_table(artifact, "full", table, every)]
    assert np.allclose(logits[:, unlike], before, atol=1e-5)


def test_onboarding_refuses(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name no model that artifact"):
        onboard(artifact, rows(60), {"full": BagEncoder()}, tmp_path)
    with pytest.raises(ValueError, match="'new-9b' has 20 scored rows; onboarding needs at least 50"):
        onboard(artifact, rows(20, models=("new-9b", "big-70b")), {"full": BagEncoder()}, tmp_path)
    with pytest.raises(ArtifactError, match="reads full vectors of bag, not of other"):
        onboard(artifact, rows(60), {"full": BagEncoder("other")}, tmp_path)


def test_size_classes_leave_out_format_failures_and_specialists() -> None:
    models = ("a-7b", "b-8b", "broken-8b", "code-7b", "c-70b")
    scores = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 0, 1], [0, 1, 0, 1, 1], [1, 1, 0, 0, 0]], np.float32)
    names, found = labels.with_classes(models, scores, ["x", "x", "x", "trivia_qa"])
    assert names[-3:] == ("7b-class", "50b-class", "frontier-class")
    assert found[:3, -3].tolist() == [1.0, 0.5, 0.5]
    assert found[:3, -2].tolist() == [1.0, 1.0, 1.0]
    assert np.isnan(found[3, -3:]).all()
    assert np.isnan(found[:, -1]).all()


def test_joint_fit_shares_strength() -> None:
    """A column with few labels borrows the direction of one with many."""
    random = np.random.default_rng(0)
    x = np.concatenate([random.standard_normal((400, 8)), np.ones((400, 1))], axis=1).astype(np.float32)
    y = (x[:, :1] + 0.3 * random.standard_normal((400, 1)) > 0).astype(np.float32).repeat(2, axis=1)
    known = np.ones_like(y)
    known[10:, 1] = 0.0
    fitted = fit_logistic(lambda: iter([(x, y, known)]), 9, 2, Penalty(1.0, 20.0))
    assert np.corrcoef(fitted[:-1, 0], fitted[:-1, 1])[0, 1] > 0.9


def test_platt_undoes_overconfidence() -> None:
    random = np.random.default_rng(0)
    z = random.standard_normal(5000)
    y = (random.random(5000) < 1 / (1 + np.exp(-z - 0.5))).astype(float)
    a, b = platt(3 * z, y)
    assert a == pytest.approx(1 / 3, abs=0.03)
    assert b == pytest.approx(0.5, abs=0.1)
