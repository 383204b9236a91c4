"""``tierwise evaluate``: how well routing does on scored rows, each figure with its interval, beside baselines."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.cli.classify import add_device

if TYPE_CHECKING:
    from classifiers.evaluate import Prices, Scored

SHOWN = ("router", "by_difficulty", "length_only", "random", "oracle")
FIGURES = ("apgr", "cpt50", "cpt80", "aiq", "saving_at_equal_quality")


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="FILE", help=".jsonl or .jsonl.gz rows")
    parser.add_argument(
        "--from-ledger",
        type=Path,
        nargs="+",
        default=[],
        metavar="JOURNAL",
        help="value --policy by entries with feedback",
    )
    parser.add_argument(
        "--feedback", type=Path, nargs="+", default=[], metavar="FILE", help='lines of {"request_id", "score"}'
    )
    parser.add_argument("--policy", type=Path, metavar="FILE", help="with --from-ledger: the policy, with its artifact")
    parser.add_argument("--artifact", type=Path, metavar="DIR", help="artifact to judge (default: the one shipped)")
    parser.add_argument("--small", metavar="MODEL", help="the cheap model, as rows name it")
    parser.add_argument("--large", metavar="MODEL", help="the dear model, as rows name it")
    parser.add_argument("--code", metavar="MODEL", help="a third model to choose among")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="choose among these by cost and quality")
    parser.add_argument(
        "--prices", type=Path, metavar="FILE", help="{model: {input_usd_per_mtok, output_usd_per_mtok}}"
    )
    parser.add_argument(
        "--cross-validate", type=int, metavar="K", help="judge the method, not the artifact: train on the other folds"
    )
    parser.add_argument("--leave-out", choices=("task",), help="with --cross-validate: keep each task in one fold")
    parser.add_argument("--labels", type=int, metavar="N", help="with --cross-validate: train on N rows only")
    parser.add_argument(
        "--figures", action="store_true", help="every figure the method is held to, from MMLU, GSM8K and fleet rows"
    )
    parser.add_argument("--seed", type=int, default=0, help="with --figures or --cross-validate: of folds and training")
    parser.add_argument("--look", choices=("lexical", "static", "full"), default="full", help="how hard to look")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder with the encoder's weights")
    add_device(parser)
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep vectors here, so that the next run is quick")
    parser.add_argument("--bootstrap", type=int, default=400, metavar="N", help="resamplings for the 95%% intervals")
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw frontier, reliability and gains (needs matplotlib)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; 1 when rows, artifact or encoder are not to be used, 2 when the question is not one."""
    from classifiers.artifact import ArtifactError
    from classifiers.datasets import DataError
    from classifiers.encoder import EncoderUnavailable
    from classifiers.evaluate import EvaluationError
    from policies.document import PolicyErrors

    if bool(args.data) == bool(args.from_ledger) or bool(args.from_ledger) != bool(args.policy):
        print("tierwise evaluate: give --data, or --from-ledger with --policy", file=sys.stderr)
        return 2
    if bool(args.small) != bool(args.large) and not args.figures:
        print("tierwise evaluate: --small and --large go together", file=sys.stderr)
        return 2
    try:
        if args.from_ledger:
            report = {"policy": _valued(args)}
        elif args.figures:
            from router.cli import figures
            from router.cli.train import work_folder

            with work_folder(args.work) as work:
                report = figures.run(args, work)
        else:
            report = _report(args)
    except (
        ArtifactError, DataError, EncoderUnavailable, EvaluationError, PolicyErrors, ValueError, OSError,
    ) as error:  # fmt: skip
        print(f"tierwise evaluate: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(report, indent=1))
    elif not args.figures:
        _print(report)
    return 0


def _valued(args: argparse.Namespace) -> dict[str, Any]:
    from router.cli.classify import encoders
    from router.learning import Log, valued
    from router.settings import load_policy
    from router.signals import load_classifier

    loaded = load_policy(args.policy)
    classifier = load_classifier(loaded.policy, *encoders(args.look, args.weights, args.device))
    return valued(Log(args.from_ledger, args.feedback), loaded, classifier)


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from classifiers import evaluate
    from router.cli.train import work_folder

    report: dict[str, Any] = {"data": [str(path) for path in args.data], "look": args.look}
    prices = prices_in(args.prices)
    with work_folder(args.work) as work:
        if args.small:
            pair = _scored(args, work, [args.small, args.large], prices)
            report["pair"] = evaluate.pair_report(pair, bootstrap=args.bootstrap)
            if args.plot:
                from classifiers.plots import draw

                draw(pair, args.plot)
        among = args.models or ([args.small, args.large, args.code] if args.code else None)
        if among:
            fleet = _scored(args, work, among, prices)
            report["choice"] = evaluate.fleet_report(fleet, bootstrap=args.bootstrap)
        domains = None if args.cross_validate else _domains(args, work)
    if domains:
        report["domains"] = domains
    if "pair" not in report and "choice" not in report and not domains:
        raise ValueError("nothing to evaluate: name --small and --large, or --models, or give rows with domains")
    return report


def _scored(args: argparse.Namespace, work: Path, models: list[str], prices: Prices) -> Scored:
    from classifiers import evaluate, members
    from classifiers.artifact import default_artifact, load
    from classifiers.datasets import read
    from classifiers.embed import tabulate
    from router.cli.train import encoders_for, progress

    encoders = encoders_for(args.look, None, args.weights, args.device)
    with progress() as told:
        if args.cross_validate:
            data = members.corpus(read(args.data), encoders, work, told)
            tasks = data.rows.tasks
            folds = (
                members.group_folds(tasks, args.cross_validate)
                if args.leave_out
                else members.fold_of(data.rows.ids, args.seed, args.cross_validate)
            )
            settings = members.Settings(seed=args.seed)
            return evaluate.from_folds(
                data, args.look, models, prices, folds=folds, labels_at_most=args.labels, settings=settings
            )
        table = tabulate(read(args.data), encoders, work / "rows", told)
    return evaluate.from_artifact(load(args.artifact or default_artifact()), table, args.look, models, prices)


def _domains(args: argparse.Namespace, work: Path) -> dict[str, Any] | None:
    from classifiers import evaluate
    from classifiers.artifact import default_artifact, load
    from classifiers.datasets import read
    from classifiers.embed import tabulate
    from router.cli.train import encoders_for, progress

    with progress() as told:
        table = tabulate(read(args.data), encoders_for(args.look, None, args.weights, args.device), work / "rows", told)
    return evaluate.domain_report(load(args.artifact or default_artifact()), args.look, table)


def prices_in(path: Path | None) -> Prices:
    """The prices in a file, none where none is named. Raises `ValueError`."""
    from classifiers.evaluate import Prices

    if path is None:
        return Prices({})
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Prices(
            {m: (float(p["input_usd_per_mtok"]), float(p["output_usd_per_mtok"])) for m, p in content.items()}
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected {{model: {{input_usd_per_mtok: number, output_usd_per_mtok: number}}}} ({error!r})"
        ) from error


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if policy := report.get("policy"):
        console.print(
            f"{policy['entries']} entries scored {policy['scored']:.3f}; this policy would be worth "
            f"{_shown(policy['value'])}, with the same choice on {policy['same_choice']:.0%} and by predictions alone "
            f"on {policy['without_odds']:.0%}"
        )
    if pair := report.get("pair"):
        table = Table(
            title=f"{pair['small']['model']} → {pair['large']['model']}, {pair['rows']} rows, {report['look']} look"
        )
        table.add_column("ranked by")
        for figure in FIGURES:
            table.add_column(figure.replace("_", " "), justify="right")
        for name in SHOWN:
            table.add_row(name.replace("_", " "), *(_shown(pair[name][figure]) for figure in FIGURES))
        console.print(table)
        console.print(
            f"quality: always small {pair['small']['quality']:.3f}, always large {pair['large']['quality']:.3f}; "
            f"APGR above length only by {_shown(pair['margin_over_length'])}"
        )
        _print_calibration(console, pair["calibration"])
        for keep, found in pair["keep_quality"].items():
            console.print(f"keep_quality {keep}: {found['share_small']:.0%} may go small (95% bound on net loss)")
    if choice := report.get("choice"):
        best = choice["best_single"]
        console.print(
            f"choosing among {len(choice['calibration'])} models, best single {best['model']} {best['quality']:.3f}:"
        )
        for figure in ("cost_at_best", "gain_at_price", "left_alone"):
            console.print(f"  {figure.replace('_', ' ')}: {_shown(choice[figure])}")
        _print_calibration(console, choice["calibration"])
    if domains := report.get("domains"):
        console.print(f"domain: {_shown(domains['accuracy'])} accuracy on {domains['rows']} rows")
        print_confusion(console, domains["confusion"])


def print_confusion(console: Any, confusion: dict[str, dict[str, int]]) -> None:
    """Print which domains are taken for which."""
    from rich.table import Table

    table = Table(title="confusion: rows are labels, columns predictions", box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True, min_width=16)
    for name in confusion:
        table.add_column(name[:3], justify="right", no_wrap=True, min_width=3)
    for name, row in confusion.items():
        table.add_row(name, *(str(row.get(other, "") or "·") for other in confusion))
    console.print(table)


def _print_calibration(console: Any, calibration: dict[str, Any]) -> None:
    for model, found in calibration.items():
        console.print(f"  {model}: ECE {_shown(found['ece'])}, Brier {_shown(found['brier'])}")


def _shown(figure: dict[str, float]) -> str:
    if figure["low"] != figure["low"]:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
