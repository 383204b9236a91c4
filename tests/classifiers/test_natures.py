from __future__ import annotations

from dataclasses import astuple

from hypothesis import example, given
from hypothesis import strategies as st

from classifiers import natures


@given(st.text("aeiybcdfXBCD", min_size=1, max_size=24), st.text(".,:;?!", max_size=2))
def test_words_of_letters_are_read_sooner_and_no_otherwise(letters: str, stops: str) -> None:
    nature = natures.nature.__wrapped__(letters + stops)
    assert nature.kind == (1 if natures._ODD.search(letters + stops) else 0)
    assert nature.stops == bool(natures._END.search(letters + stops))
    assert nature.label == bool(stops and natures._LABEL.match(letters + stops))


_LETTERS = st.text("aeiyvx", max_size=24)
_SOME = st.sampled_from(
    [*natures._KEYWORDS, *natures._JOINS, *natures._OPENERS, *natures._MOVED, "Ix", "é", "i", "xii"]
)
_WORD = st.one_of(
    st.tuples(
        st.one_of(
            _SOME,
            _SOME.map(str.title),
            _SOME.map(str.upper),
            _LETTERS,
            _LETTERS.map(str.title),
            st.text("aB1-$'(vi)._", max_size=6),
            st.text("aBt1-$'{}\\[#é", max_size=6),
            st.integers(0, 12000).map(str),
        ),
        st.sampled_from(["", ".", ",", ":", "?", "!", ";", ")", "..", '"']),
    ).map("".join)
)


@example(
    ["Ix.", "iv:", "xii.", "viii.", "box.", "Box:", "A.", "b:", "12.", "120.", "Let", "What", "The", "I", "a"], " "
)
@example(["static", "hmm", "thx", "Schm,"], " ")
@example(["nightshift", "Nightshift."], " ")
@example(
    ["IV:", "XI.", "NASA", "WHAT", "caf\u00e9", "l\u2019eau", "x\u00b2", "\u044f", "\ud800", "r\u00fcck."], "\u3000"
)
@given(st.lists(_WORD, max_size=12), st.sampled_from([" ", "\n", "\x1c", "  "]))
def test_words_told_by_their_shape_are_what_each_is_by_itself(said: list[str], between: str) -> None:
    words = between.join(said).split()
    natures.nature.cache_clear()
    told = natures.natures(words)
    assert [astuple(one) for one in told] == [astuple(natures.nature(word)) for word in words]
