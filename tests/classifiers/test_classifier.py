"""The serving object, on a small world trained here: looks, targets, custom domains, honesty about what is missing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from classifiers.artifact import Artifact, ArtifactError, save
from classifiers.boost import Growth
from classifiers.classifier import Classifier, Target
from classifiers.features import extract, from_text
from classifiers.members import Settings
from classifiers.train import train
from tests.classifiers.small_world import BagEncoder, rows

QUICK = Settings(growth=Growth(trees=10), iterations=15)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    work = tmp_path_factory.mktemp("work")
    return save(train(rows(), {"static": BagEncoder("s", 16), "full": BagEncoder()}, work, QUICK), work / "artifact")


TARGETS = [Target("small", "acme/Tiny-7B-AWQ"), Target("large", "big-70b"), Target("guess", "mystery-13b")]


@pytest.fixture
def classifier(artifact: Artifact) -> Classifier:
    return Classifier(artifact, TARGETS, static=BagEncoder("s", 16), full=BagEncoder())  # type: ignore[arg-type]


EASY = from_text("what about elephant mountain kitchen bread holiday umbrella?")
HARD = from_text("what about manifold tensor lemma entropy quark homology?")


@pytest.mark.parametrize("look", ["lexical", "static", "full"])
def test_every_look_knows_easy_from_hard(classifier: Classifier, look: str) -> None:
    easy, hard = classifier.classify([EASY, HARD], look=look)  # type: ignore[arg-type]
    assert easy.success["small"].probability > hard.success["small"].probability + 0.2
    assert hard.success["large"].probability > hard.success["small"].probability + 0.2
    assert easy.complexity is not None
    assert hard.complexity is not None
    assert hard.complexity > easy.complexity


def test_where_predictions_come_from(classifier: Classifier) -> None:
    found = classifier.second_look(EASY).success
    assert {tier: s.source for tier, s in found.items()} == {"small": "trained", "large": "trained", "guess": "size"}
    assert found["guess"].standard_error > found["small"].standard_error


def test_looks_say_what_they_are(classifier: Classifier, artifact: Artifact) -> None:
    assert classifier.looks == "full"
    assert classifier.first_look(EASY).look == "static"
    assert classifier.second_look(EASY).look == "full"
    assert classifier.second_look(EASY).artifact == artifact.id


def test_without_an_encoder_it_serves_and_says_so(artifact: Artifact) -> None:
    lexical = Classifier(artifact, TARGETS)
    found = lexical.second_look(EASY)
    assert found.look == "lexical"
    assert found.missing == ("no encoder: lexical features only",)
    assert set(found.success) == {"small", "large", "guess"}
    with pytest.raises(ValueError, match="full look needs its encoder"):
        lexical.classify([EASY], look="full")


def test_no_user_text_means_no_prediction(classifier: Classifier) -> None:
    found = classifier.second_look(extract({"messages": [{"role": "system", "content": "be kind"}]}))
    assert found.success == {}
    assert found.complexity is None
    assert found.missing == ("no user text to read",)


def test_a_signal_never_depends_on_its_batch_mates(classifier: Classifier) -> None:
    together = classifier.classify([EASY, HARD, from_text("x" * 5000)])
    alone = [classifier.classify([f])[0] for f in (EASY, HARD)]
    for one, two in zip(together, alone, strict=False):
        assert one.complexity == pytest.approx(two.complexity, abs=1e-6)
        for tier in one.success:
            assert one.success[tier].probability == pytest.approx(two.success[tier].probability, abs=1e-6)


GADGET = "Manifold tensor lemma entropy quark homology integral gradient."


@pytest.mark.parametrize("look", ["lexical", "static", "full"])
@pytest.mark.parametrize("text", [f"{GADGET} {EASY.text}", f"{EASY.text} {GADGET}"])
def test_a_gadget_is_set_aside(classifier: Classifier, look: str, text: str) -> None:
    (clean,) = classifier.classify([EASY], look=look)  # type: ignore[arg-type]
    (driven,) = classifier.read([from_text(text)], look=look)  # type: ignore[arg-type]
    (found,) = classifier.classify([from_text(text)], look=look)  # type: ignore[arg-type]
    assert driven.aside == clean.aside == 0
    assert driven.success["small"].probability < clean.success["small"].probability - 0.1
    assert found.aside == len(GADGET) + 1
    assert found.success == clean.success
    assert found.complexity == clean.complexity


@pytest.mark.parametrize("text", [f"{GADGET} {EASY.text}", EASY.text, HARD.text])
def test_a_first_look_is_guarded_when_it_is_asked_for(classifier: Classifier, text: str) -> None:
    request = from_text(text)
    first = classifier.first_look(request)
    assert first == classifier.read([request], look="static")[0]
    assert classifier.guarded(request, first) == classifier.classify([request], look="static")[0]
    assert (classifier.guarded(request, first) is first) is (text != f"{GADGET} {EASY.text}")
    assert classifier.guarded(request, first) is classifier.guarded(request, first)


def test_a_hard_question_stays_hard_with_its_own_context(classifier: Classifier) -> None:
    for text in (HARD.text, f"Take a manifold and a tensor. {HARD.text}"):
        found = classifier.second_look(from_text(text))
        assert found.aside == 0
        assert found.success == classifier.read([from_text(text)])[0].success


def test_only_the_newest_turn_is_taken_apart(classifier: Classifier) -> None:
    turns = [{"role": "user", "content": content} for content in (HARD.text, f"{GADGET} go on with umbrella")]
    hard, newest = (classifier.second_look(extract({"messages": turns[-n:]})) for n in (2, 1))
    assert hard.complexity is not None
    assert newest.complexity is not None
    assert hard.complexity > newest.complexity


def test_the_same_text_is_encoded_once(artifact: Artifact) -> None:
    encoder = BagEncoder()
    classifier = Classifier(artifact, TARGETS, full=encoder)
    assert classifier.second_look(EASY) is classifier.second_look(from_text(EASY.text))
    assert encoder.calls == 1


@pytest.mark.parametrize("look", ["static", "full"])
def test_other_languages_are_doubted_not_called_simple(classifier: Classifier, look: str) -> None:
    chinese = from_text("用中文解释一下什么是量子纠缠, 谢谢")
    doubted, believed = classifier.classify([chinese, replace(chinese, language="en")], look=look)  # type: ignore[arg-type]
    assert doubted.complexity is not None
    assert believed.complexity is not None
    assert abs(doubted.complexity - 0.5) < abs(believed.complexity - 0.5)
    assert doubted.success["small"].standard_error > believed.success["small"].standard_error


def test_users_add_domains_by_example(artifact: Artifact) -> None:
    examples = [f"refund my order number {n} please" for n in range(6)]
    classifier = Classifier(artifact, TARGETS, full=BagEncoder(), domains={"refunds": examples})
    found = classifier.second_look(from_text("please refund my order number 99"))
    assert found.domain == "refunds"
    assert sum(found.domain_probs.values()) == pytest.approx(1.0, abs=1e-5)
    assert classifier.second_look(HARD).domain != "refunds"
    with pytest.raises(ValueError, match="'empty' has no example prompts"):
        Classifier(artifact, TARGETS, full=BagEncoder(), domains={"empty": []})


def test_another_encoders_vectors_are_refused(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="reads full vectors of bag, not of other"):
        Classifier(artifact, TARGETS, full=BagEncoder("other"))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, -1, slice(None)])
def test_vectors_that_are_not_numbers_are_refused(artifact: Artifact, number: float, place: int | slice) -> None:
    class Broken(BagEncoder):
        def encode(self, texts):  # type: ignore[no-untyped-def]
            vectors = np.zeros((len(texts), self.dimension), np.float32)
            vectors[:, place] = number
            return vectors

    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="bag gave NaN"):
        Classifier(artifact, TARGETS, full=Broken()).second_look(EASY)


def test_loading_from_a_folder(artifact: Artifact, tmp_path: Path) -> None:
    save(artifact, tmp_path / "a")
    found = Classifier.load(tmp_path / "a", TARGETS, full=None, static=None)
    assert found.artifact.id == artifact.id
