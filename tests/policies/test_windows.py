"""Context windows that servers tell of themselves: used where the policy states none, unknown where nobody tells."""

from __future__ import annotations

import pytest

from policies.decide import decide
from policies.values import Features
from tests.policies.examples import a_document, a_policy, a_view


def steps(told: dict[str, int], tokens: int = 20_000, **stated: object) -> list[str]:
    document = a_document()
    first = document["tiers"]["small"]["backends"][0]  # type: ignore[index]
    del first["context_window"]
    first |= {key: value for key, value in stated.items() if value is not None}
    asked = Features(model="tier/small", input_tokens=tokens)
    return [step.backend for step in decide(a_policy(**document), asked, None, a_view(windows=told)).steps]


@pytest.mark.parametrize(
    ("told", "stated", "serves"),
    [
        ({}, None, True),
        ({"small-1": 32_768}, None, True),
        ({"small-1": 4_096}, None, False),
        ({"small-2": 4_096}, None, True),
        ({"small-1": 4_096}, 65_536, True),
        ({"small-1": 65_536}, 8_000, False),
    ],
)
def test_what_the_policy_states_wins_and_unknown_stays_unknown(
    told: dict[str, int], stated: int | None, serves: bool
) -> None:
    assert ("small-1" in steps(told, context_window=stated)) == serves


def test_a_plan_heeds_what_servers_tell() -> None:
    document = a_document()
    del document["tiers"]["code"]["backends"][0]["context_window"]  # type: ignore[index]
    loaded, asked = a_policy(**document), Features(model="tier/code", input_tokens=5_000)
    found = [
        [step.backend for step in decide(loaded, asked, None, a_view(windows=told)).steps]
        for told in ({}, {"code-1": 4_096}, {"code-1": 65_536})
    ]
    assert found == [["code-1", "large-1"], ["large-1"], ["code-1", "large-1"]]
    assert loaded.plans["tier/code"] is not None
