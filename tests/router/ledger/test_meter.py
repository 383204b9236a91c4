"""A GPU's bill against its rule: from the second in which it is first held until the proxy that holds it lets go."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from router.ledger.journal_file import JournalFile
from router.ledger.meter import Hold, Meter
from router.ledger.sums import last_held, merge_all, merge_packed, seconds_held
from tests.router.ledger.entries import NOON

GPU, RATE = "gpu-1", 1_100_000_007


class World:
    """Proxies of one journal that are started, read, stopped and killed; and, second by second, what the rule says."""

    def __init__(self) -> None:
        self.now = NOON + 0.25
        self.billed: dict[tuple[int, str], bytes] = {}
        self.journal: dict[tuple[str, str, int], Hold] = {}
        self.proxies: dict[int, tuple[Meter, float]] = {}
        self.killed: list[float] = []
        self.unsaid: set[int] = set()
        self.ruled: set[int] = set()

    def rule(self, since: float) -> None:
        self.ruled |= set(range(int(since), int(self.now) + 1))

    def read(self, meter: Meter, *backends: tuple[str, int]) -> None:
        reading = meter.read(self.now, backends)
        self.billed = merge_packed(self.billed, reading.packed)
        for hold in reading.holds:
            self.journal.pop(hold[:3], None)
            if hold.until is not None:
                self.journal[hold[:3]] = hold

    def play(self, who: int, event: str) -> None:
        meter, since = self.proxies.pop(who, (None, self.now))
        if event == "run":
            if meter is None:
                meter = self.start()
            self.read(meter, (GPU, RATE))
            self.unsaid.discard(who)
            self.proxies[who] = meter, since
        elif event == "stop" and meter is not None:
            self.read(meter)
            self.rule(since)
        elif meter is not None and who not in self.unsaid:
            self.killed.append(since)

    def start(self) -> Meter:
        """What was held by others is taken over; those of them that live say with their next reading that they do."""
        said = (since for who, (_, since) in self.proxies.items() if who not in self.unsaid)
        for since in (*self.killed, *said):
            self.rule(since)
        self.killed, self.unsaid = [], set(self.proxies)
        return Meter(self.journal.values())


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["run", "run", "run", "stop", "kill"]), st.floats(0, 4_000)),
        max_size=20,
    )
)
def test_a_gpu_is_billed_for_every_second_of_the_rule_and_no_other(events: list[tuple[int, str, float]]) -> None:
    world = World()
    for who, event, passed in events:
        world.now += passed
        world.play(who, event)
    for who in range(3):
        world.play(who, "run")
        world.play(who, "stop")
    assert sum(map(seconds_held, world.billed.values())) == len(world.ruled)
    assert max(last_held(hour, packed) for (hour, _), packed in world.billed.items()) == max(world.ruled) + 1
    assert not world.journal, "and in the end nothing is held"


def test_a_second_in_which_the_price_changes_is_billed_at_the_old_one() -> None:
    meter = Meter()
    readings = [
        meter.read(NOON + 0.5, [(GPU, 1)]),
        meter.read(NOON + 7.5, [(GPU, 2)]),
        meter.read(NOON + 7.9, [(GPU, 2)]),
        meter.read(NOON + 9.5, []),
    ]
    billed = merge_packed(*(reading.packed for reading in readings))
    assert {name[-1]: seconds_held(packed) for (_, name), packed in billed.items()} == {"1": 8, "2": 2}


def test_a_clock_that_is_set_back_takes_nothing_back() -> None:
    meter = Meter()
    packed = [meter.read(NOON + at, [(GPU, RATE)]).packed for at in (0, 9, 3, 12)]
    assert sum(map(seconds_held, merge_packed(*packed).values())) == 13


def test_what_is_held_outlives_the_proxy_in_its_journal(tmp_path: Path) -> None:
    file = JournalFile(tmp_path / "journal.sqlite")
    killed = Meter(file.gpus())
    for at in (0.5, 5.5):
        reading = killed.read(NOON + at, [(GPU, RATE)])
        file.write([], NOON, reading.packed, reading.holds)
    ((_, backend, rate, until),) = file.gpus()
    assert (backend, rate, until) == (GPU, RATE, NOON + 5.5)
    following = Meter(file.gpus())
    for backends in ([(GPU, RATE)], []):
        reading = following.read(NOON + 3_605, backends)
        file.write([], NOON, reading.packed, reading.holds)
    assert file.gpus() == []
    sums = merge_all(file.packed(0, 2**40))
    assert sum(map(seconds_held, sums.values())) == 3_606
    file.close()
