"""The model of prefix caches: leading blocks only, bounded, least recently used out first."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.affinity import BLOCK, BLOCK_TOKENS, HOLDERS, LONGEST, Affinity, trace

SYSTEM: dict[str, Any] = {"role": "system", "content": "You are terse. " * 200}


def prompt(*said: str, **more: Any) -> dict[str, Any]:
    return {"messages": [SYSTEM, *({"role": "user", "content": text} for text in said)], **more}


def test_a_shared_system_prompt_is_warm_where_it_was_served() -> None:
    affinity = Affinity(("a", "b"))
    affinity.served("a", trace(prompt("What is a monad? " * 100)))
    other = trace(prompt("And a functor? " * 100))
    shared = len(SYSTEM["content"]) // BLOCK * BLOCK_TOKENS
    assert affinity.warm(other) == {"a": shared}


def test_a_conversation_is_warm_up_to_its_last_turn() -> None:
    affinity = Affinity(("a", "b"))
    opening = trace(prompt("first " * 300))
    affinity.served("b", opening)
    assert affinity.warm(trace(prompt("first " * 300, "second " * 300))) == {"b": len(opening) * BLOCK_TOKENS}
    assert affinity.warm(trace(prompt("different from the start"))) == {"b": 5 * BLOCK_TOKENS}


def test_tools_are_part_of_the_prompt() -> None:
    with_tools = prompt("x" * 2_000, tools=[{"type": "function", "function": {"name": "f"}}])
    assert trace(with_tools)[0] != trace(prompt("x" * 2_000))[0]


def test_short_prompts_and_odd_bodies_have_no_blocks() -> None:
    assert trace({"messages": [{"role": "user", "content": "hi"}]}) == ()
    assert trace({}) == ()
    assert trace({"messages": 3}) == ()
    assert trace({"messages": [object()]}) == ()


def test_it_is_bounded_and_gives_up_ends_before_beginnings() -> None:
    affinity = Affinity(("a",))
    shared, long = trace(prompt("q")), trace(prompt("z" * 50_000))
    affinity.served("a", long, cache_tokens=20 * BLOCK_TOKENS)
    assert len(affinity) == 20
    assert affinity.warm(long) == {"a": 20 * BLOCK_TOKENS}
    for number in range(50):
        affinity.served("a", trace(prompt(f"{number} " * 2_000)), cache_tokens=20 * BLOCK_TOKENS)
        assert len(affinity) <= 20
    assert affinity.warm(shared) == {"a": len(shared) * BLOCK_TOKENS}
    assert len(trace(prompt("y" * 10_000_000))) == LONGEST


def test_a_restarted_engine_has_nothing_and_an_unknown_one_is_not_modelled() -> None:
    affinity = Affinity(("a",))
    some = trace(prompt("hello " * 500))
    affinity.served("a", some)
    affinity.served("gone", some)
    affinity.forget("a")
    affinity.forget("gone")
    assert affinity.warm(some) == {}


texts = st.lists(st.text("ab", min_size=400, max_size=700), max_size=5)


@given(texts, texts)
def test_warm_never_exceeds_what_is_common(served: list[str], asked: list[str]) -> None:
    affinity = Affinity(("a",))
    before, now = trace(prompt(*served)), trace(prompt(*asked))
    affinity.served("a", before)
    common = next((i for i, (x, y) in enumerate(zip(before, now, strict=False)) if x != y), min(len(before), len(now)))
    assert affinity.warm(now).get("a", 0) == common * BLOCK_TOKENS


def test_of_a_crowd_the_latest_few_with_most_of_a_prompt_are_found_without_asking_all() -> None:
    crowd = [f"c{number}" for number in range(50)]
    affinity = Affinity([*crowd, "other"], crowd)
    opening, longer = trace(prompt("first " * 300)), trace(prompt("first " * 300, "second " * 300))
    for name in (*crowd, "other"):
        affinity.served(name, trace(prompt("something else " * 200)))
    for name in ("c3", "c9", "other"):
        affinity.served(name, opening)
    assert affinity.holders(longer) == ["c9", "c3"]
    affinity.served("c3", longer)
    assert affinity.holders(longer) == ["c3"]
    assert len(affinity.holders(trace(prompt("neither")))) == HOLDERS
    assert affinity.holders(trace(prompt("x" * 9_000))[-1:]) == ()
    assert affinity.warm(longer, ["c3", "c9", "gone"]) == {
        "c3": len(longer) * BLOCK_TOKENS,
        "c9": len(opening) * BLOCK_TOKENS,
    }


def test_who_has_lost_a_block_is_not_found_by_it() -> None:
    affinity = Affinity(("a", "b"), ("a", "b"))
    long = trace(prompt("z" * 20_000))
    affinity.served("a", long)
    affinity.served("b", long, cache_tokens=4 * BLOCK_TOKENS)
    assert affinity.holders(long) == ["a"]
    assert affinity.holders(long[:4]) == ["b", "a"]
    affinity.forget("a")
    assert affinity.holders(long) == ["b"]
    affinity.forget("b")
    assert affinity.holders(long) == ()
