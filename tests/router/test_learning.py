"""Training from the books: what a journal teaches, and what it cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from policies.values import Decision, Entry, Step
from router.cli import main
from router.learning import Log
from router.ledger.feedback import Feedback, FeedbackError
from router.ledger.journal_file import JournalFile, Line
from tests.classifiers.small_world import rows as world
from tests.journeys.conftest import POLICY
from tests.router.ledger.entries import NOON, entry

MODELS = {"small": "Acme/Tiny-7B-AWQ", "large": "big-70b"}


def judged(count: int) -> list[tuple[Entry, float]]:
    """Answers in a small world by a policy that goes small three times in four, with how right each was."""
    found = []
    for number, row in enumerate(world(count)):
        tier, odds = ("large", 0.25) if number % 4 == 0 else ("small", 0.75)
        model = "tiny-7b" if tier == "small" else "big-70b"
        made = entry(f"r{number}", tier=tier, backend=f"{tier}-1", features=row.features)
        decision = Decision((Step(tier, f"{tier}-1"),), ("because",), "hash", propensity=odds)
        found.append((replace(made, served_model=MODELS[tier], decision=decision), row.scores[model]))
    return found


def write(path: Path, found: list[tuple[Entry, float]]) -> Path:
    file = JournalFile(path)
    file.write([Line(made) for made, _ in found], NOON)
    file.write_feedback([Feedback(made.id, made.key_id, NOON, score) for made, score in found])
    file.close()
    return path


def test_rows_are_named_scored_and_weighted(tmp_path: Path) -> None:
    found = list(Log([write(tmp_path / "j", judged(40))]).rows())
    assert [row.id for row in found] == [f"r{number}" for number in range(40)]
    assert {name for row in found for name in row.scores} == {"tiny-7b", "big-70b"}
    assert all(row.weight == pytest.approx(1.0) for row in found)
    assert found[0].features.text


def test_backends_go_by_what_the_policy_calls_their_tier(tmp_path: Path) -> None:
    log = Log([write(tmp_path / "j", judged(8))], names={"small-1": "qwen2.5-7b-instruct"})
    assert {name for row in log.rows() for name in row.scores} == {"qwen2.5-7b-instruct", "big-70b"}


def test_rare_choices_count_for_the_ones_they_stand_for(tmp_path: Path) -> None:
    found = judged(8)
    rare = replace(found[1][0], decision=replace(found[1][0].decision, propensity=0.15))
    rows = list(Log([write(tmp_path / "j", [found[2], (rare, 1.0)])]).rows())
    assert rows[1].weight == pytest.approx(5 * rows[0].weight)
    assert rows[0].weight + rows[1].weight == pytest.approx(2.0)


def test_a_journal_read_twice_counts_once(tmp_path: Path) -> None:
    path = write(tmp_path / "j", judged(8))
    assert len(list(Log([path, path]).rows())) == 8
    assert Log([path, path]).about() == Log([path]).about()


def test_what_cannot_be_learnt_from_is_left_out_and_counted(tmp_path: Path) -> None:
    found = judged(8)
    changes = {0: {"served_model": ""}, 1: {"tier": "large"}, 2: {"features": replace(found[2][0].features, text="")}}
    changed = [(replace(made, **changes.get(n, {})), score) for n, (made, score) in enumerate(found)]  # type: ignore[arg-type]
    log = Log([write(tmp_path / "j", changed)])
    assert [row.id for row in log.rows()] == ["r3", "r4", "r5", "r6", "r7"]
    about = log.about()
    assert about["entries"] == 5
    assert sorted(about["left_out"].values()) == [1, 1, 1]


def test_a_log_without_content_says_what_the_policy_must_say(tmp_path: Path) -> None:
    bare = [(replace(made, features=replace(made.features, text="")), score) for made, score in judged(4)]
    with pytest.raises(FeedbackError, match=r"4 have no content: the policy must say logging: \{content: true\}"):
        list(Log([write(tmp_path / "j", bare)]).rows())
    with pytest.raises(FeedbackError, match="none has feedback"):
        list(Log([write(tmp_path / "k", [])]).rows())


def test_training_from_the_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = judged(160)
    journal, out = write(tmp_path / "journal.sqlite", [(made, 0.0) for made, _ in found]), tmp_path / "artifact"
    said = tmp_path / "feedback.jsonl"
    said.write_text("".join(json.dumps({"request_id": made.id, "score": score}) + "\n" for made, score in found))
    command = ["train", "--from-ledger", str(journal), "--look", "lexical", "--out", str(out)]
    assert main([*command, "--feedback", str(said)]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["models"][:2] == ["big-70b", "tiny-7b"]
    assert manifest["rows"] == 160
    assert manifest["ledger"]["entries"] == 160
    capsys.readouterr()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"request_id": "r1", "score": 2}', r"feedback.jsonl, line 2: 'score' must be a number"),
        ('{"request_id": "r1"}', "feedback.jsonl, line 2: 'score' must be"),
        ("nonsense", "feedback.jsonl, line 2: not valid JSON"),
    ],
)
def test_bad_feedback_ends_training_with_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    journal, out = write(tmp_path / "j", judged(8)), tmp_path / "artifact"
    said = tmp_path / "feedback.jsonl"
    said.write_text('{"request_id": "r0", "score": 1}\n' + line)
    command = ["train", "--from-ledger", str(journal), "--look", "lexical", "--out", str(out)]
    assert main([*command, "--feedback", str(said)]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_policy_is_valued_before_it_is_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Small is always wrong here and large always right, and the log went small three times in four."""
    found = [(made, float(made.tier == "large")) for made, _ in judged(60)]
    journal, values = write(tmp_path / "j", found), {}
    for tier in ("small", "large"):
        policy = tmp_path / f"{tier}.yaml"
        policy.write_text(
            POLICY + f"rules: [{{name: all, when: {{turns: {{at_least: 1}}}}, tier: {tier}}}]\nexploration: 0.5\n"
        )
        command = ["evaluate", "--from-ledger", str(journal), "--policy", str(policy), "--look", "lexical", "--json"]
        assert main(command) == 0
        values[tier] = json.loads(capsys.readouterr().out)["policy"]
    assert values["large"]["entries"] == 60
    assert values["large"]["scored"] == pytest.approx(0.25)
    assert values["large"]["same_choice"] == pytest.approx(0.25)
    assert values["large"]["without_odds"] == 0
    assert values["large"]["value"]["value"] == pytest.approx(1.0, abs=0.05)
    assert values["small"]["value"]["value"] == pytest.approx(0.0, abs=0.05)
    other = tmp_path / "other.yaml"
    other.write_text(POLICY.replace("large:", "huge:").replace("baseline: large", "baseline: huge"))
    assert main(["evaluate", "--from-ledger", str(journal), "--policy", str(other), "--look", "lexical"]) == 1
    assert "answered by 'large'" in capsys.readouterr().err
    assert main(["evaluate", "--from-ledger", str(journal)]) == 2


def test_options_that_make_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(tmp_path / "a")]) == 2
    assert "give --data or --from-ledger" in capsys.readouterr().err
    assert main(["train", "--out", str(tmp_path / "a"), "--data", "x", "--feedback", "y"]) == 2
    assert main(["train", "--out", str(tmp_path / "a"), "--from-ledger", str(tmp_path / "none")]) == 1
    assert "there is no journal" in capsys.readouterr().err
