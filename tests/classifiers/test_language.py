"""The language of a prompt, from script and stop words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.language import detect


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("What is the capital of France?", "en"),
        ("Wie geht es dir heute?", "de"),
        ("¿Cuál es la capital de Francia?", "es"),
        ("Quelle est la capitale de la France ?", "fr"),
        ("用C++写一个无锁队列 lock-free queue", "zh"),
        ("pythonで配列をソートする方法", "ja"),
        ("파이썬으로 크롤러 만들어줘", "ko"),
        ("Где ошибка в коде?", "ru"),
        ("Де помилка в цьому коді, підкажіть", "uk"),
        ("اكتب قصيدة عن الحب", "ar"),
        ("یک شعر درباره پاییز بگو چه گفت", "fa"),
        ("मेरे दोस्त के लिए एक कविता", "hi"),
        ("bài thơ về ông", "vi"),
        ("2 + 2", "und"),
        ("", "und"),
    ],
)
def test_languages(text: str, code: str) -> None:
    assert detect(text) == code


def test_a_code_block_does_not_decide() -> None:
    assert detect("Warum geht das nicht?\n```python\nif the is not in this: return that\n```") == "de"


def test_of_languages_with_as_many_votes_the_first_to_be_heard_counts() -> None:
    assert detect("hvorfor ikke") == "da"
    assert detect("und the") == "de"
    assert detect("the und") == "en"


@given(st.text())
def test_total(text: str) -> None:
    assert 2 <= len(detect(text)) <= 3


@given(
    st.lists(st.sampled_from(["the", "of", "what", "a", "in", "is", "die", "und", "la", "de", "no", "me", "not", "en"]))
)
def test_english_is_settled_soon_where_all_votes_would_say_so(words: list[str]) -> None:
    text = " ".join(words)
    assert detect(text) == detect(f"{text} €")  # beyond ASCII, all votes are counted
