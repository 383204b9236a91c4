"""``tierwise bench``: a backend as its users feel it, alone or against another."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from policies.schema import Backend
    from router.bench.measure import Plan, Round
    from router.bench.summary import Difference, Figure, Summary


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("target", metavar="A", help="base URL of a backend, or its name with --policy")
    parser.add_argument(
        "--vs", metavar="B", help="a second backend, measured in turn with the first on the same prompts"
    )
    parser.add_argument("--policy", type=Path, metavar="FILE", help="where backends are named")
    parser.add_argument("--model", help="model to ask for (default: the first that the server lists)")
    parser.add_argument("--vs-model", metavar="MODEL", help="the same of the second backend")
    parser.add_argument(
        "--key-env", default="OPENAI_API_KEY", metavar="NAME", help="variable that holds the key, if any"
    )
    parser.add_argument(
        "--concurrency", default="1,4,16", metavar="N,…", help="requests at once (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds at each (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=8, metavar="N", help="requests a round (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds (default: %(default)s)")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="JSONL or lines, asked in turn (default: built in)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the built-in prompts (default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a PNG")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure; 1 when a backend cannot be reached or nothing was answered, 2 when an option makes no sense."""
    from policies.document import PolicyErrors
    from router.bench import prompts
    from router.bench.plot import NoPictures

    try:
        plan = _plan(args)
        given = prompts.read(args.prompts) if args.prompts else None
        backends = [_backend(args, name, model) for name, model in _asked(args)]
    except (ValueError, OSError, PolicyErrors) as error:
        print(f"tierwise bench: {error}", file=sys.stderr)
        return 2
    try:
        measured = asyncio.run(_measure(backends, prompts.endless(given, args.seed), plan))
        _show(args, measured)
    except (_Unreachable, NoPictures, OSError) as error:
        print(f"tierwise bench: {error}", file=sys.stderr)
        return 1
    return 0 if all(s.requests > sum(s.errors.values()) for s in measured.summaries) else 1


class _Unreachable(Exception):
    """A backend does not answer; the text says what to look at."""


@dataclass(frozen=True, slots=True)
class _Measured:
    summaries: list[Summary]
    differences: list[Difference]
    engines: dict[str, dict[str, Any]]


def _asked(args: argparse.Namespace) -> Sequence[tuple[str, str | None]]:
    return [(args.target, args.model), *([(args.vs, args.vs_model or args.model)] if args.vs else [])]


def _plan(args: argparse.Namespace) -> Plan:
    from router.bench.measure import Plan

    concurrencies = tuple(int(each) for each in args.concurrency.split(","))
    if min(*concurrencies, args.rounds, args.requests, args.max_tokens, 1) < 1:
        raise ValueError("--concurrency, --rounds, --requests and --max-tokens must be at least 1")
    return Plan(concurrencies, args.rounds, args.requests, args.max_tokens, args.timeout)


def _backend(args: argparse.Namespace, name: str, model: str | None) -> Backend:
    """The configuration of a backend given by URL, or by name in a policy."""
    from policies import schema
    from policies.addressing import backends
    from policies.problems import listing
    from router.settings import load_policy

    if name.startswith(("http://", "https://")):
        stated = {"name": "a", "kind": "openai", "model": model or "", "base_url": name}
        return schema.Backend.model_validate({**stated, "api_key": os.environ.get(args.key_env) or None})
    if args.policy is None:
        raise ValueError(f"{name!r} is not a URL; give --policy to name a backend of it")
    known = {backend.name: backend for _, backend in backends(load_policy(args.policy).policy)}
    if name not in known:
        raise ValueError(f"the policy has no backend {name!r}; it has {listing(list(known))}")
    return known[name].model_copy(update={"model": model} if model else {})


async def _measure(configs: Sequence[Backend], conversations: Any, plan: Plan) -> _Measured:
    from policies.schema import Timeouts
    from policies.speculation import watch
    from router.backends import open_backend
    from router.bench import measure, summary

    opened, names = [], []
    try:
        for config in configs:
            backend = open_backend(await _known(config), Timeouts())
            opened.append(backend)
            label = backend.config.base_url or backend.name
            names.append(label if label not in names else f"{label} ({backend.config.model})")
        observers = [measure.Observer(backend) for backend in opened]
        for observer in observers:
            await observer.read()
        rounds: list[Round] = await measure.run(list(zip(names, opened, strict=True)), conversations, plan)
        engines = {}
        for name, observer in zip(names, observers, strict=True):
            await observer.read()
            view = observer.view()
            told = {key: value for key, value in asdict(view).items() if value is not None}
            speculation = watch(view)
            engines[name] = {**told, **({"speculation": asdict(speculation)} if speculation else {})}
    finally:
        for backend in opened:
            await backend.aclose()
    differences = summary.compare(rounds, *names) if len(names) == 2 else []
    return _Measured(summary.summarise(rounds), differences, engines)


async def _known(config: Backend) -> Backend:
    """The configuration with what the server tells where the user did not: its kind, and its first model."""
    from policies.schema import Timeouts
    from router.backends.openai import OpenAI
    from router.bench.measure import kind_of
    from router.engines import engine_of
    from router.engines.discovery import LARGEST, read_models
    from router.errors import UpstreamError

    if config.kind != "openai":
        return config
    backend = OpenAI(config, Timeouts())
    try:
        kind = await kind_of(backend) or config.kind
        model = config.model
        if not model:
            served = read_models(engine_of(kind), await backend.fetch("models", LARGEST))
            if not served:
                raise _Unreachable(f"{config.base_url} lists no models; give --model")
            model = served[0].id
    except UpstreamError as error:
        raise _Unreachable(f"{config.base_url} does not list its models ({error.message}) Give --model.") from error
    finally:
        await backend.aclose()
    return config.model_copy(update={"kind": kind, "model": model})


def _show(args: argparse.Namespace, measured: _Measured) -> None:
    if args.plot:
        from router.bench.plot import as_png

        args.plot.write_bytes(as_png(measured.summaries))
    if args.json:
        print(json.dumps(asdict(measured), indent=2))
        return
    from rich.console import Console

    console = Console()
    _print(console if console.is_terminal else Console(width=160), measured)


def _print(console: Console, measured: _Measured) -> None:
    from rich.table import Table

    columns = ("at once", "backend", "requests", "errors", "TTFT p50 ms", "TTFT p95 ms", "ms per token", "tokens/s")
    table = Table(*columns, title="95% intervals in brackets")
    for s in measured.summaries:
        errors = ", ".join(f"{count} {kind}" for kind, count in s.errors.items()) or "0"
        figures = (s.ttft_p50, s.ttft_p95, s.tpot_p50, s.tokens_per_second)
        table.add_row(str(s.concurrency), s.target, str(s.requests), errors, *map(_text, figures))
    console.print(table)
    if measured.differences:
        second = measured.summaries[1].target
        table = Table("at once", "TTFT p50", "ms per token", "tokens/s", title=f"{second} as a multiple of the first")
        for d in measured.differences:
            table.add_row(str(d.concurrency), *map(_text, (d.ttft_p50, d.tpot_p50, d.tokens_per_second)))
        console.print(table)
    for name, told in measured.engines.items():
        speculation = told.get("speculation")
        if speculation:
            console.print(
                f"{name}: drafts {told['draft_acceptance']:.0%} accepted, {speculation['tokens_per_pass']:.2f} tokens "
                f"a pass ({speculation['theory']:.2f} in theory). {speculation['warning']}",
                markup=False,
            )


def _text(figure: Figure) -> str:
    if figure.value is None:
        return "–"
    interval = "" if figure.low is None or figure.high is None else f" [{figure.low:.3g}, {figure.high:.3g}]"
    return f"{figure.value:.3g}{interval}"
