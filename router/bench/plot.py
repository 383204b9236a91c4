"""A benchmark as a picture: time to first token, time per token and throughput over concurrency. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence

from router.bench.summary import Figure, Summary

_PANELS = (("ttft_p50", "ms to first token, median"), ("tpot_p50", "ms per output token, median"),
           ("tokens_per_second", "output tokens per second"))  # fmt: skip
_COLOURS = ("#2f7d5b", "#b4552d")


class NoPictures(Exception):
    """matplotlib is not installed; the text says how to have it."""


def as_png(summaries: Sequence[Summary]) -> bytes:
    """The summaries as a PNG, with their intervals. Raises `NoPictures`."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise NoPictures("a plot needs matplotlib: pip install 'tierwise[torch]'") from error
    canvas = Canvas(figsize=(13, 4), layout="constrained")
    for axes, (name, label) in zip(canvas.subplots(1, 3), _PANELS, strict=True):
        for target, colour in zip(dict.fromkeys(s.target for s in summaries), _COLOURS, strict=False):
            points = [(s.concurrency, f) for s in summaries if s.target == target and (f := getattr(s, name)).value]
            values = [figure.value for _, figure in points]
            spread = [[_reach(f, f.low) for _, f in points], [_reach(f, f.high) for _, f in points]]
            axes.errorbar([c for c, _ in points], values, spread, marker="o", capsize=3, color=colour, label=target)
        axes.set_xlabel("requests at once")
        axes.set_title(label)
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    out = io.BytesIO()
    canvas.savefig(out, format="png", dpi=144)
    return out.getvalue()


def _reach(figure: Figure, end: float | None) -> float:
    return abs((figure.value or 0.0) - end) if end is not None else 0.0
