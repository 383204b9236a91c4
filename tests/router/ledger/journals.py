"""What tests read in a journal."""

from __future__ import annotations

from router.ledger.journal_file import Batch, JournalFile
from router.ledger.sums import Tally, merge_all
from tests.router.ledger.entries import NOON

HOUR = int(NOON) // 3600


def applied(file: JournalFile, number: int) -> dict[str, int]:
    return {file.chapters()[-1].name: number}


def after(file: JournalFile, number: int) -> Batch:
    batch = file.batch_after(file.chapters()[-1], applied(file, number))
    assert batch is not None
    return batch


def sums(file: JournalFile, known: dict[str, int] | None = None) -> Tally:
    total = Tally()
    for (_, name), packed in merge_all(file.packed(HOUR, HOUR + 1, known)).items():
        if name[0] != "=":
            total.merge(Tally.unpack(packed))
    return total
