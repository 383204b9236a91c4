"""``tierwise demo``: the main job from end to end, on this machine alone.

Three simulated backends on loopback, the proxy in front of them on the embedded store, a few dozen queries of the kind
that real users send, each decision as it happens, then the cost report.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Query:
    """One query of the demo. ``after`` continues the conversation of the query before it."""

    prompt: str
    stream: bool = False
    after: bool = False


_LEASE = (
    "The tenant shall keep the premises in good repair, shall give notice in writing of any defect within seven days, "
    "and shall not assign, sublet or part with possession of any part of the premises without the landlord's consent. "
)

QUERIES = (
    Query("Hi there! How's your day going?"),
    Query("Tell me a joke about penguins.", stream=True),
    Query("What's a good name for a ginger cat?"),
    Query("Write a two-line thank-you note to my neighbour who watered my plants."),
    Query("What is the capital of Australia?"),
    Query("Who painted The Night Watch, and where does it hang?"),
    Query("In which year did the Berlin Wall fall?", stream=True),
    Query("What is the boiling point of water at sea level in Fahrenheit?"),
    Query("Convert 5 miles to kilometres."),
    Query("What is 17% of 240?"),
    Query("A train leaves at 9:40 and arrives at 13:05. How long is the journey?"),
    Query("Three workers paint a wall in 8 hours. How long do five workers need at the same pace?"),
    Query(
        "Let G be a finite group in which every element squares to the identity. Prove that G is abelian and that its "
        "order is a power of two.",
        stream=True,
    ),
    Query(
        "Compute the fundamental group of the complement of the trefoil knot in the 3-sphere, and show that it is not "
        "isomorphic to the integers."
    ),
    Query("Evaluate the integral of x^2 * exp(-x^2) over the real line, with every step justified."),
    Query("Write a Python function that returns the n-th Fibonacci number."),
    Query(
        "This raises RecursionError for long lists, fix it:\n```python\ndef total(xs):\n    return 0 if not xs else "
        "xs[0] + total(xs[1:])\n```",
        stream=True,
    ),
    Query(
        "Implement a lock-free multi-producer single-consumer queue in C++20 with correct memory orders, and explain "
        "why each acquire and release is needed.",
        stream=True,
    ),
    Query("commit it", after=True),
    Query("Write a SQL query for the second highest salary per department, ties included."),
    Query("Why does `git rebase --onto main feature~3 feature` drop my first commit?"),
    Query(
        "A patient on warfarin starts fluconazole for candidiasis. What happens to the INR, by which mechanism, and "
        "what would you change?"
    ),
    Query(
        "Is promissory estoppel a cause of action or only a defence in English law? "
        "Compare with the Restatement (Second)."
    ),
    Query("Explain why the Treaty of Westphalia matters to the modern idea of sovereignty."),
    Query("What is the difference between a Roth and a traditional retirement account?"),
    Query("How does mRNA leave the nucleus?"),
    Query("Why is the sky blue?", stream=True),
    Query("Write a short poem about the sea in winter.", stream=True),
    Query("Suggest three dinner ideas with chickpeas."),
    Query("¿Cuál es la capital de Perú y cuántos habitantes tiene?"),
    Query("请用 C++ 写一个无锁队列，并解释内存序。", stream=True),
    Query("Erkläre mir den Unterschied zwischen Dativ und Akkusativ mit drei Beispielen."),
    Query("Pourquoi la somme des angles d'un triangle vaut-elle 180 degrés ?"),
    Query("今日の夕食に簡単な和食を提案してください。"),
    Query(f"Summarise the tenant's duties in this lease in five bullet points.\n\n{_LEASE * 60}"),
    Query("Which of those duties would a court be slowest to enforce, and why?", after=True),
    Query("Thanks, that's all for today!"),
)


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--once", action="store_true", help="end after the report instead of staying up")
    parser.add_argument("--port", type=int, default=0, help="port of the proxy (default: a free one)")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when every query was answered."""
    import httpx
    from rich.console import Console

    from classifiers.encoder import EncoderUnavailable
    from router import presets
    from router.cli import cache_dir
    from router.cli.prepare import prepare_with_progress
    from router.launch import running_proxy

    console = Console()
    try:
        prepare_with_progress(cache_dir(), console)
        part = "full"
    except EncoderUnavailable as error:
        console.print(f"{error}\nGoing on with lexical features alone.", markup=False)
        part = None
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tierwise-demo-")))
        policy = scratch / "demo.yaml"
        policy.write_text(presets.text("demo"), encoding="utf-8")
        console.print("Starting three simulated backends, the embedded store and the proxy …")
        options = ("--port", str(args.port), "--log-level", "warning")
        proxy = stack.enter_context(running_proxy(policy, scratch / "data", *options))
        proxy.wait_until_ready(part=part)
        client = stack.enter_context(httpx.Client(base_url=proxy.url, timeout=60))
        failures = _converse(client, console)
        console.print()
        subprocess.run([sys.executable, "-m", "router.cli", "report", "--data-dir", str(scratch / "data")], check=True)
        if failures:
            console.print(f"[red]{failures} of {len(QUERIES)} queries failed.[/red]")
            return 1
        if not args.once:
            console.print(f"\nThe proxy stays up at {proxy.url}/v1. Point a client at it, or press Ctrl-C:\n")
            console.print(
                f"  curl {proxy.url}/v1/chat/completions -H 'content-type: application/json' \\\n"
                """    -d '{"model": "auto", "messages": [{"role": "user", "content": "Hello!"}]}'""",
                markup=False,
                soft_wrap=True,
            )
            proxy.process.wait()
    return 0


def _converse(client: httpx.Client, console: Console) -> int:
    """Send every query, show what became of it, and count failures."""
    from rich.markup import escape

    columns = f"{'query':<46} {'tier':<7}{'domain':<17}{'complexity':<11}{'cost':>11} {'ms':>6}  why"
    console.print(f"\n[bold]{columns}[/bold]", soft_wrap=True)
    failures = 0
    messages: list[dict[str, str]] = []
    for query in QUERIES:
        messages = [*(messages if query.after else []), {"role": "user", "content": query.prompt}]
        answer = _ask(client, messages, query.stream)
        messages.append({"role": "assistant", "content": answer.text})
        failures += answer.status != 200
        shown = " ".join(query.prompt.split())
        shown = ("↳ " if query.after else "") + shown
        colour = {"small": "green", "code": "cyan", "large": "magenta"}.get(answer.tier, "red")
        console.print(
            f"{escape(_fit(shown, 46))} [{colour}]{answer.tier:<7}[/{colour}]{answer.domain:<17}{answer.complexity:<11}"
            f"{answer.cost:>11} {answer.total_ms:>6.0f}  [dim]{escape(answer.reason)}[/dim]",
            soft_wrap=True,
            highlight=False,
        )
    return failures


def _fit(text: str, width: int) -> str:
    """Cut or pad to a width in terminal cells."""
    from rich.cells import set_cell_size

    return set_cell_size(text, width)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    text: str
    tier: str
    domain: str
    complexity: str
    cost: str
    reason: str
    total_ms: float


def _ask(client: httpx.Client, messages: list[dict[str, str]], stream: bool) -> _Answer:
    body: dict[str, Any] = {"model": "auto", "messages": messages, "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    started = perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if stream and response.status_code == 200:
            chunks = list(_events(response))
            text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
            cost = next((chunk["usage"].get("cost") for chunk in reversed(chunks) if chunk.get("usage")), None)
        else:
            response.read()
            found = response.json()
            text = (
                found["choices"][0]["message"]["content"] if response.status_code == 200 else found["error"]["message"]
            )
            cost = response.headers.get("x-tierwise-cost-usd")
    total_ms = (perf_counter() - started) * 1e3
    headers = response.headers
    return _Answer(
        status=response.status_code,
        text=text,
        tier=headers.get("x-tierwise-tier", "–"),
        domain=headers.get("x-tierwise-domain", "–"),
        complexity=headers.get("x-tierwise-complexity", "–"),
        cost="unpriced" if cost is None else f"${float(cost):.6f}",
        reason=headers.get("x-tierwise-reason", text),
        total_ms=total_ms,
    )


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])
