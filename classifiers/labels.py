"""What is known of training rows besides scores: domains by task, size classes, priors for everyday prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from classifiers.heads import Array
from classifiers.targets import CLASSES, class_of

_SUBJECTS: Final = {
    "biology": "college_biology high_school_biology",
    "business": "business_ethics management marketing professional_accounting",
    "chemistry": "college_chemistry high_school_chemistry",
    "computer science": "college_computer_science computer_security high_school_computer_science machine_learning",
    "economics": "econometrics high_school_macroeconomics high_school_microeconomics",
    "engineering": "electrical_engineering",
    "health": "anatomy clinical_knowledge college_medicine human_aging human_sexuality medical_genetics nutrition "
    "professional_medicine virology",
    "history": "high_school_european_history high_school_us_history high_school_world_history prehistory",
    "law": "international_law jurisprudence professional_law",
    "math": "abstract_algebra college_mathematics elementary_mathematics high_school_mathematics "
    "high_school_statistics",
    "philosophy": "formal_logic logical_fallacies moral_disputes moral_scenarios philosophy world_religions",
    "physics": "astronomy college_physics conceptual_physics high_school_physics",
    "psychology": "high_school_psychology professional_psychology",
    "other": "global_facts high_school_geography high_school_government_and_politics miscellaneous public_relations "
    "security_studies sociology us_foreign_policy",
}  # fmt: skip
_TASKS: Final = {
    "code": "mbpp human_eval humaneval coding code livecodebench",
    "math": "gsm8k math mgsm agentverse-mgsm aime",
    "writing": "creative_writing commongen writing",
    "other": "natural_qa trivia_qa commonsense_qa",
}
_DOMAIN_OF: Final = {
    **{f"mmlu/{subject}": domain for domain, subjects in _SUBJECTS.items() for subject in subjects.split()},
    **{task: domain for domain, tasks in _TASKS.items() for task in tasks.split()},
}


def domain_of_task(task: str) -> str:
    """The domain of a known benchmark's task (MMLU's subjects fold into MMLU-Pro's categories), else empty."""
    return _DOMAIN_OF.get(task, "")


_OPTIONS: Final = re.compile(r"\n\(?A[.)] ")


def stem(prompt: str) -> str:
    """A multiple-choice question without its options: closer to how people ask."""
    return _OPTIONS.split(prompt, maxsplit=1)[0]


PRIORS: Final[Mapping[str, tuple[float, float, float]]] = {
    "chat": (0.97, 0.98, 0.98),
    "writing": (0.88, 0.92, 0.95),
    "code": (0.75, 0.83, 0.92),
    "math": (0.80, 0.88, 0.95),
    "": (0.88, 0.93, 0.96),
    "hard": (0.30, 0.45, 0.75),
}
"""Success assumed, not measured, of (7B, 50B, frontier) classes on everyday prompts by domain ("" is any other), and
on hard ones: what users wrote for Arena-Hard, and short ones that ask for expert work. They stand in where no benchmark
has a label, at `PRIOR_WEIGHT` of a measured row."""

PRIOR_WEIGHT: Final = 0.5

_HARD_SOURCES: Final = ("ah2-",)
"""Prefixes of ids of prompts chosen because they are hard (Arena-Hard v2.0)."""


def hard_prior(row: str) -> tuple[float, float, float] | None:
    """The assumed success of (7B, 50B, frontier) classes on an unscored row from a set of hard prompts, else None."""
    return PRIORS["hard"] if row.startswith(_HARD_SOURCES) else None


def everyday_priors(models: Sequence[str], domains: Sequence[str], tasks: Sequence[str]) -> Array:
    """The assumed success (rows, models) on everyday prompts, by domain or as ``hard``, each model's by its class."""
    column = [CLASSES.index(m if m in CLASSES else class_of(m)) for m in models]
    kinds = (task if task == "hard" else domain for domain, task in zip(domains, tasks, strict=True))
    rows = np.array([PRIORS.get(kind, PRIORS[""]) for kind in kinds], np.float32)
    return rows[:, column]


EXCLUDED: Final = frozenset({"trivia_qa"})
"""Tasks left out of the size classes: all nine models, to 51B, score below 0.25 on trivia_qa, which tells of its exact
matching and not of the question."""


def with_classes(models: Sequence[str], scores: Array, tasks: Sequence[str]) -> tuple[tuple[str, ...], Array]:
    """Append the size classes' columns: the mean score of their general models, NaN where none has one.

    ``scores`` is (rows, models), NaN where missing. A model that scores less than 60% of its class's median is taken
    for a format failure, and code models for specialists; neither enters.
    """
    measured = ~np.array([task in EXCLUDED for task in tasks], bool)[:, None]
    means = _means(scores)
    columns = []
    for name in CLASSES:
        members = [i for i, m in enumerate(models) if class_of(m) == name and "code" not in m and np.isfinite(means[i])]
        if members:
            median = float(np.median(means[members]))
            members = [i for i in members if means[i] >= 0.6 * median]
        known = np.isfinite(scores[:, members]) & measured
        total = np.where(known, scores[:, members], 0.0).sum(axis=1)
        with np.errstate(invalid="ignore"):
            columns.append(np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan))
    return (*models, *CLASSES), np.column_stack([scores, *columns]).astype(np.float32)


def _means(scores: Array) -> Array:
    known = np.isfinite(scores)
    total = np.where(known, scores, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan).astype(np.float32)
