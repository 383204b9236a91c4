"""``tierwise explain``: how a policy routes a prompt, and what change of price or threshold would flip it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from router.cli import cache_dir

if TYPE_CHECKING:
    from classifiers.classifier import Classifier
    from policies.schema import Policy


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("prompt", metavar="PROMPT", help="what a user asks; - reads it from standard input")
    parser.add_argument("--policy", default="balanced", help="policy file, or a preset (default: %(default)s)")
    parser.add_argument("--model", default="auto", help="the model that the request names (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the explanation as JSON")


def run(args: argparse.Namespace) -> int:
    """Explain; 1 when the policy is not valid."""
    from classifiers.features import extract
    from policies.document import PolicyErrors
    from policies.explain import explain, lines
    from policies.values import View
    from router.settings import load_policy

    try:
        loaded = load_policy(args.policy)
    except (OSError, PolicyErrors) as error:
        print(error, file=sys.stderr)
        return 1
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    features = extract({"model": args.model, "messages": [{"role": "user", "content": prompt}]})
    signals = _classifier(loaded.policy).classify([features])[0]
    explanation = explain(loaded, features, signals, View(now=datetime.now(ZoneInfo(loaded.policy.timezone))))
    if args.json:
        print(json.dumps(asdict(explanation), default=_plain, ensure_ascii=False, indent=2))
    else:
        print("\n".join(lines(explanation)))
    return 0


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)


def _classifier(policy: Policy) -> Classifier:
    """The policy's classifier with the best encoder there is; without one, on lexical features, which it says."""
    from classifiers.encoder import Encoder, EncoderUnavailable
    from classifiers.static import StaticEncoder
    from router.encoders import EncoderSettings, warm
    from router.signals import load_classifier

    ready: list[tuple[StaticEncoder | None, Encoder | None]] = [(None, None)]
    try:
        settings = EncoderSettings.of(policy.classifier)
        warm(settings, cache_dir(), lambda static, full: ready.append((static, full)))
    except EncoderUnavailable as error:
        print(error, file=sys.stderr)
    return load_classifier(policy, *ready[-1])
