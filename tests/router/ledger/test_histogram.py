from collections import Counter
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from router.ledger import histogram

durations = st.lists(st.floats(histogram.SMALLEST_MS, 1e8), min_size=1)


@given(durations, st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_within_one_percent_of_the_value_at_its_rank(observed: list[float], share: float) -> None:
    counts = Counter(histogram.bucket(ms) for ms in observed)
    true = sorted(observed)[max(1, ceil(share * len(observed))) - 1]
    found = histogram.percentile(counts, share)
    assert found is not None
    assert abs(found - true) <= 0.01 * true


@given(durations, durations)
def test_merged_counts_are_the_counts_of_all(first: list[float], second: list[float]) -> None:
    merged = Counter(map(histogram.bucket, first)) + Counter(map(histogram.bucket, second))
    assert merged == Counter(map(histogram.bucket, first + second))


def test_what_lies_outside_counts_at_the_ends() -> None:
    assert histogram.bucket(0) == 0
    assert histogram.bucket(-1) == 0
    assert histogram.bucket(1e30) == histogram.BUCKETS - 1


def test_nothing_has_no_percentile() -> None:
    assert histogram.percentile({}, 0.5) is None


@given(st.lists(st.floats(-1, 1e9), min_size=1, max_size=60))
def test_many_durations_fall_where_each_does(observed: list[float]) -> None:
    for some in ([observed, observed[::-1], [0.0] * len(observed)], [histogram._EDGES]):
        assert histogram.counted(some) == [Counter(map(histogram.bucket, column)) for column in some]
