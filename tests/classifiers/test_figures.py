"""Floors under the figures in README.md: on the shipped artifact, and on the shared data where it is present."""

import json
import os
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifiers import evaluate, members, metrics, prepare
from classifiers.artifact import DEFAULT, load
from classifiers.boost import Growth
from classifiers.classifier import Classifier, Target
from classifiers.datasets import read, sha256
from classifiers.embed import tabulate
from classifiers.evaluate import Prices
from classifiers.features import extract, from_text
from classifiers.figures import Goal, goals
from classifiers.folds import Folds
from classifiers.members import EVERYDAY as TRAINED
from policies.values import Signals
from router.cli import main
from router.cli.evaluate import prices_in

EVERYDAY = Path(__file__).parent / "data" / "everyday_prompts.jsonl"
SHARED = Path(os.environ.get("TIERWISE_SHARED_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data")
PAIR = ("mixtral-8x7b-instruct", "gpt-4-1106-preview")
TARGETS = [Target("small", "acme-7b"), Target("large", "gpt-4-1106-preview")]

shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not there")


@pytest.fixture(scope="module")
def classifier(encoder_cache: Path) -> Classifier:
    both = prepare.load(encoder_cache)
    return Classifier.load(DEFAULT, TARGETS, static=both.static, full=both.full)


@pytest.fixture
def ask(classifier: Classifier) -> Callable[[str], Signals]:
    return lambda text: classifier.second_look(from_text(text))


@pytest.mark.parametrize(("look", "floor"), [("lexical", 0.35), ("static", 0.65), ("full", 0.75)])
def test_domains_of_everyday_prompts(classifier: Classifier, look: Any, floor: float) -> None:
    rows = list(read([EVERYDAY]))
    assert len(rows) >= 300
    found = classifier.classify([row.features for row in rows], look=look)
    assert np.mean([s.domain == row.domain for s, row in zip(found, rows, strict=True)]) >= floor


def test_evaluation_prompts_are_not_trained_on() -> None:
    def plain(path: Path) -> set[str]:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {json.loads(line)["prompt"].lower().strip(" ?!.") for line in lines}

    assert not plain(EVERYDAY) & plain(TRAINED)


def test_a_joke_is_chat_and_a_queue_is_code_in_chinese_too(ask: Callable[[str], Signals]) -> None:
    assert ask("Tell me a joke").domain == "chat"
    assert ask("用C++写一个无锁队列").domain == "code"


@pytest.mark.parametrize(
    "prompt",
    [
        "请用 C++ 写一个无锁队列，并解释内存序。",
        "请用 Java 实现一个阻塞队列，并写出单元测试",
        "JavaScriptでデバウンス関数を実装してください",
        "파이썬으로 연결 리스트를 구현하는 코드를 작성해 줘",
        "Schreibe eine Funktion in TypeScript, die ein Array gruppiert",
        "Écris un script Python qui supprime les doublons d'un fichier CSV",
        "Escribe una consulta SQL que cuente los pedidos por mes",
        "Escreva uma função em Python que inverta uma lista ligada",
        "Напиши функцию на Python, которая ищет дубликаты в списке",
        "اكتب دالة بلغة JavaScript تعكس سلسلة نصية",
        "Python में एक फंक्शन लिखो जो सूची को उलट दे",
    ],
)
def test_code_is_asked_for_in_any_language(ask: Callable[[str], Signals], prompt: str) -> None:
    assert ask(prompt).domain == "code"


@pytest.mark.parametrize(
    "prompt",
    [
        "请解释什么是机会成本，并举一个例子",
        "請幫我寫一首關於海的詩",
        "徳川家康はどんな人でしたか",
        "조선 시대는 언제 시작되었나요",
        "Erkläre mir bitte, warum der Mond Phasen hat",
        "Explique-moi pourquoi les feuilles tombent en automne",
        "Explica qué es un contrato de alquiler",
        "Объясни, как работает рынок облигаций",
        "اشرح لي كيف تعمل الكلية في جسم الإنسان",
    ],
)
def test_another_language_alone_is_no_sign_of_code(ask: Callable[[str], Signals], prompt: str) -> None:
    assert ask(prompt).domain_probs["code"] < 0.25


def test_hard_prompts_are_not_called_simple(ask: Callable[[str], Signals]) -> None:
    hard = (
        "Prove that every finite group of odd order is solvable, or sketch the character theory that it needs.",
        "Design a lock-free, wait-free MPMC queue in C++20 with hazard pointers and prove that it is linearizable.",
    )
    for prompt in hard:
        assert ask(prompt).band != "simple"


def test_small_talk_is_simple(ask: Callable[[str], Signals]) -> None:
    for prompt in ("hi", "thank you!", "how are you today?"):
        assert ask(prompt).band == "simple"


def test_commit_it_after_hard_work_is_read_with_that_work(classifier: Classifier) -> None:
    turns = [
        {
            "role": "user",
            "content": "Write a lock-free queue in C++ with hazard pointers and test it under contention.",
        },
        {"role": "assistant", "content": "```cpp\n...\n```"},
        {"role": "user", "content": "commit it"},
    ]
    found = classifier.second_look(extract({"messages": turns}))
    assert found.domain == "code"
    assert found.band != "simple"


def test_other_languages_are_not_all_simple(classifier: Classifier) -> None:
    hard = (
        "证明每个奇数阶有限群都是可解的",
        "Реализуй на C++ очередь без блокировок и докажи её линеаризуемость",
        "量子力学における測定問題を厳密に説明してください",
    )
    assert any(classifier.second_look(from_text(prompt)).band != "simple" for prompt in hard)


def test_the_artifact_is_small_and_says_where_it_is_from() -> None:
    artifact = load(DEFAULT)
    assert sum(path.stat().st_size for path in DEFAULT.iterdir()) < 5_000_000
    assert len(artifact.about["data"]) == 5
    assert artifact.about["data"]["domain_prompts.jsonl"] == sha256(TRAINED)
    assert set(artifact.about["licences"]) == set(artifact.about["data"])


SLICES = {"mmlu_two_models": 6, "gsm8k_two_models": 2, "nine_models": 6}
"""One row in so many is enough for floors."""

FLOORS = {
    ("MMLU, 5 folds", "APGR"): 0.61,
    ("MMLU, 5 folds", "APGR above length alone"): 0.05,
    ("MMLU, 1,500 labels", "APGR"): 0.60,
    ("MMLU, unseen subjects", "APGR"): 0.52,
    ("GSM8K, 5 folds", "APGR"): 0.42,
    ("GSM8K, never trained on", "APGR"): 0.45,
    ("9 models, 5 folds", "accuracy above the best single's at its price"): 0.005,
    ("9 models, a task left out", "the same on the worst task"): -0.02,
    ("negative control", "share sent to the model both better and cheaper"): 0.95,
    ("standard errors", "share of tasks seen within 1.96 of them"): 0.85,
    ("standard errors", "share of subjects never seen within 1.96 of them"): 0.80,
    ("standard errors", "share of tasks never seen within 1.96 of them"): 0.80,
}
"""Under what a few small trees and n-grams reach on the slices; the README has what the whole reaches on everything."""

CEILINGS = {
    ("9 models, 5 folds", "share of its price for the best single's accuracy"): 0.75,
    ("calibration", "mean ECE, MMLU, in distribution"): 0.06,
    ("calibration", "mean ECE, nine models, in distribution"): 0.08,
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[str, str], float]:
    """Every goal on slices of the shared data, without an encoder and with little training."""
    work = tmp_path_factory.mktemp("work")
    rows = (row for name, k in SLICES.items() for row in islice(read([SHARED / f"{name}.jsonl.gz"]), 0, None, k))
    tables = tabulate(rows, {}, work / "rows"), tabulate(read([members.EVERYDAY]), {}, work / "everyday")
    quick = members.Settings(growth=Growth(trees=30), iterations=30)
    folds = Folds(work / "folds", "lexical", "", quick)
    found = goals(*tables, PAIR, prices_in(SHARED / "prices.json"), folds, bootstrap=20)
    return {(goal.group, goal.name): goal.figure["value"] for goal in found if isinstance(goal, Goal)}


@shared
@pytest.mark.parametrize("goal", FLOORS, ids=" ".join)
def test_floors_on_slices(measured: Mapping[tuple[str, str], float], goal: tuple[str, str]) -> None:
    assert measured[goal] >= FLOORS[goal]


@shared
@pytest.mark.parametrize("goal", CEILINGS, ids=" ".join)
def test_ceilings_on_slices(measured: Mapping[tuple[str, str], float], goal: tuple[str, str]) -> None:
    assert measured[goal] <= CEILINGS[goal]


WHOLE = {
    ("MMLU, 5 folds", "APGR"): 0.69,
    ("MMLU, 1,500 labels", "APGR"): 0.66,
    ("MMLU, unseen subjects", "APGR"): 0.64,
    ("GSM8K, 5 folds", "APGR"): 0.63,
    ("9 models, 5 folds", "accuracy above the best single's at its price"): 0.02,
    ("9 models, a task left out", "the same on the worst task"): -0.015,
    ("negative control", "share sent to the model both better and cheaper"): 0.95,
    ("domain", "accuracy on everyday prompts"): 0.80,
}


@shared
@pytest.mark.figures
def test_the_command_measures_everything(encoder_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Minutes: run it with ``-m figures``."""
    names = ("gsm8k_two_models", "mmlu_two_models", "nine_models", "user_prompts")
    data = [*(str(SHARED / f"{name}.jsonl.gz") for name in names), str(EVERYDAY)]
    command = ["evaluate", "--figures", "--json", "--data", *data, "--prices", str(SHARED / "prices.json")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    found = {(f["group"], f["name"]): f["value"] for f in json.loads(printed[printed.index("{") :])["figures"]}
    assert {goal: found[goal] for goal, floor in WHOLE.items() if found[goal] < floor} == {}


@shared
def test_gsm8k_by_the_shipped_artifact(encoder_cache: Path, tmp_path: Path) -> None:
    """In sample, so no figure: only that artifact, encoder and evaluation speak of the same vectors."""
    both = prepare.load(encoder_cache)
    table = tabulate(read([SHARED / "gsm8k_two_models.jsonl.gz"]), {"static": both.static, "full": both.full}, tmp_path)
    found = evaluate.from_artifact(load(DEFAULT), table, "full", PAIR, Prices({}))
    assert metrics.apgr(found.p[:, 1] - found.p[:, 0], found.y[:, 0], found.y[:, 1]) > 0.6
