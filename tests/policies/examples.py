"""A policy of three tiers, and requests, signals and views drawn at random for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import yaml
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from policies.document import Loaded, load
from policies.schema import Budget, Objective, Rule, SessionSettings
from policies.values import CAPABILITIES, DOMAINS, EngineView, Features, Session, Signals, Success, View

NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
"""A Wednesday."""

PLAIN = Features(input_tokens=100)
MANY = settings_of(max_examples=200, deadline=None)

BACKENDS = ("small-1", "small-2", "code-1", "large-1")
TIERS = ("small", "code", "large")


def a_document(**settings: object) -> dict[str, object]:
    """The document as data, with these top-level settings replaced."""

    def priced(name: str, window: int, price: str, **more: object) -> dict[str, object]:
        cost = {"input_usd_per_mtok": Decimal(price), "output_usd_per_mtok": 4 * Decimal(price)}
        return {"name": name, "kind": "openai", "model": f"m-{name}", "context_window": window, "cost": cost, **more}

    return {
        "version": 1,
        "tiers": {
            "small": {
                "backends": [
                    priced("small-1", 8_000, "0.05", precision="int4", max_output_tokens=2_000),
                    priced("small-2", 8_000, "0.05", precision="fp16", max_output_tokens=2_000, max_in_flight=4),
                ]
            },
            "code": {"backends": [priced("code-1", 16_000, "0.20", supports=["tools", "json_mode"])]},
            "large": {"backends": [priced("large-1", 100_000, "2.50", supports=list(CAPABILITIES))]},
        },
        "fallback": {"small": ["large"], "code": ["large"]},
        **settings,
    }


def a_policy(**settings: object) -> Loaded:
    """The policy, with these top-level settings replaced; None leaves one out."""
    document = {key: value for key, value in a_document(**settings).items() if value is not None}
    text = yaml.safe_dump(_plain(document), sort_keys=False)
    return load(text, file="policy.yaml", environ={})


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value


def some_signals(
    domain: str = "chat", complexity: float | None = 0.2, error: float = 0.02, **success: float
) -> Signals:
    """Signals with these probabilities of success by tier."""
    known = success or {"small": 0.92, "code": 0.90, "large": 0.93}
    predicted = {tier: Success(probability, error, shared=0.95 * error) for tier, probability in known.items()}
    return Signals(domain=domain, domain_probs={domain: 1.0}, complexity=complexity, success=predicted)


def a_view(**settings: object) -> View:
    return View(**{"now": NOON, **settings})  # type: ignore[arg-type]


shares = st.floats(0, 1)

features = st.builds(
    Features,
    model=st.sampled_from(("auto", "auto", "", "auto:cheap", "tier/small", "tier/code", "small-2", "large-1", "gpt-9")),
    last_characters=st.sampled_from((0, 9, 60)),
    turns=st.integers(1, 4),
    input_tokens=st.integers(0, 120_000) | st.integers(0, 500),
    max_output_tokens=st.none() | st.integers(1, 20_000),
    choices=st.integers(1, 3),
    language=st.sampled_from(("en", "de", "und")),
    has_code=st.booleans(),
    requires=st.frozensets(st.sampled_from(CAPABILITIES), max_size=2),
    allowed=st.none() | st.lists(st.sampled_from((*BACKENDS, "tier/small", "tier/large", "gone"))).map(tuple),
)

successes = st.builds(
    lambda probability, error, together: Success(probability, error, shared=together * error),
    shares,
    st.floats(0, 0.3),
    st.floats(-1, 1),
)

signals = st.none() | st.builds(
    Signals,
    domain=st.sampled_from(DOMAINS),
    domain_probs=st.sampled_from(({}, {"code": 0.6, "math": 0.4})),
    complexity=st.none() | shares,
    success=st.dictionaries(st.sampled_from(TIERS), successes),
    ood=st.booleans(),
    missing=st.sampled_from(((), ("the second look was late",))),
)

numbers = st.none() | st.floats() | st.floats(0, 1000)

engines = st.builds(EngineView, **dict.fromkeys(EngineView.__dataclass_fields__, numbers))

views = st.builds(
    View,
    now=st.integers(0, 7 * 24 * 60 - 1).map(lambda minutes: NOON + timedelta(minutes=minutes)),
    cooling=st.frozensets(st.sampled_from(BACKENDS)),
    engines=st.dictionaries(st.sampled_from(BACKENDS), engines),
    warm=st.dictionaries(st.sampled_from(BACKENDS), st.integers(-5, 200_000)),
    in_flight=st.dictionaries(st.sampled_from(BACKENDS), st.integers(0, 300)),
    exceeded=st.lists(st.sampled_from(("day", "key", "by tier/large", "by tier/small", "gone"))).map(tuple),
    session=st.none()
    | st.builds(
        Session,
        tier=st.sampled_from((*TIERS, "removed")),
        backend=st.sampled_from(BACKENDS),
        complexity=shares,
        easier_turns=st.integers(0, 4),
    ),
    spent_today=st.decimals(0, 100, places=4),
    draw=st.floats(0, 1, exclude_max=True),
)

objectives = (
    shares.map(lambda share: {"keep_quality": max(share, 0.01)})
    | shares.map(lambda share: {"tradeoff": share})
    | shares.map(lambda share: {"large_share": share})
    | st.integers(1, 50).map(lambda usd: {"usd_per_day": usd})
)

RULES = [
    Rule.model_validate(rule)
    for rule in (
        {"name": "code", "when": {"domain": "code"}, "prefer": "code"},
        {"name": "hard", "when": {"complexity": {"at_least": 0.7}}, "tier": "large"},
        {"name": "no int4", "when": {"domain": "math"}, "exclude": {"precision": "int4"}},
        {"name": "no small", "when": {"has_code": True}, "exclude": {"tier": "small"}},
        {"name": "german", "when": {"language": "de"}, "tier": "small"},
        {"name": "nothing left", "when": {"turns": {"at_least": 4}}, "exclude": {"kind": "openai"}},
        {"name": "nights", "when": {"time": {"from": "22:00", "to": "06:00"}}, "prefer": "small"},
    )
]

BUDGETS = [
    Budget.model_validate(budget)
    for budget in (
        {"name": "day", "per": "day", "usd": 5, "on_exceeded": "downgrade"},
        {"name": "key", "per": "hour", "requests": 5},
        {"name": "by tier", "per": "day", "scope": "tier", "usd": 1, "when": {"domain": "code"}},
    )
]


def _varied(**settings: object) -> Loaded:
    settings["session"] = SessionSettings(sticky=bool(settings["session"]))
    return replace(BASE, policy=BASE.policy.model_copy(update=settings))


BASE = a_policy(objectives={"cheap": {"tradeoff": 0.9}})

policies = st.builds(
    _varied,
    objective=objectives.map(Objective.model_validate),
    exploration=st.sampled_from((0.0, 0.2, 1.0)),
    rules=st.lists(st.sampled_from(RULES), max_size=4, unique_by=lambda rule: rule.name).map(tuple),
    budgets=st.lists(st.sampled_from(BUDGETS), max_size=2, unique_by=lambda budget: budget.name).map(tuple),
    session=st.booleans(),
    fallback=st.sampled_from(({}, {"small": ("large",), "code": ("large", "small"), "large": ("large", "code")})),
    baseline=st.sampled_from(TIERS),
)
