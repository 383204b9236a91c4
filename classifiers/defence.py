"""What stands against gadgets: texts that ask nothing and are put around a question so that it looks hard.

`plain` undoes what only machines read: look-alike characters, invisible ones, runs of one character. `cores` gives what
is left of a prompt without a first or a last part that could be a gadget: it is short, and shares no word with the
rest, for whoever puts one text around every question does not know the question. A question's own premise, passage or
options share words with it and stay. The classifier looks at the cores too where a prompt would go up.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from operator import or_
from typing import Final

from classifiers.natures import FAR, LONG, Nature, natures
from classifiers.words import words_of

MOST: Final = 2400
"""Characters of the longest prompt that is taken apart: beside more text a gadget moves little."""

SPAN: Final = 600
"""Characters at either end of it that are searched for parts."""

PLACES: Final = 3
"""Places, counted from either end, where a prompt is cut."""

MOST_WORDS: Final = 90
"""Distinct words of the longest part that is taken for a gadget."""

LEAST: Final = 8
"""Bytes of the shortest core."""

_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e01ef]"
)
_CONTROLS: Final = bytes([*range(0x09), *range(0x0B, 0x20), 0x7F])
"""Those of them that are ASCII."""
_GREETING: Final = re.compile(
    r"(?:(?:hi|hello|hey|dear|good (?:morning|afternoon|evening))\b[\w ]{0,12}[,.!]+\s+)?(?:(?:can|could|would) you "
    r"(?:please |kindly )?help(?: me)?(?: (?:with|out))?(?: (?:this|something))?[?.!,:]+\s+)?"
    r"(?:please[,:]*\s+(?:tell me[,:]+\s+)?)?",
    re.IGNORECASE,
)
_THANKS: Final = re.compile(
    r"[\s,]*\b(?:please|thanks|thank you|thx|cheers)(?: (?:so much|a lot|in advance|very much|you))*[.!]*\Z",
    re.IGNORECASE,
)
_FAREWELL: Final = 60
_RUN: Final = re.compile(r"([^\w\s]|[^\W\d])\1{3,}|[ \t]{5,}|\n{3,}")


def plain(text: str) -> str:
    """``text`` in Unicode's NFKC, without control and zero-width characters, runs of one character or English manners.

    Three of a letter or symbol stay, four spaces, one empty line; digits stay as they are. A greeting and thanks are
    left where little else is said.
    """
    if text.isascii():
        text = text.encode().translate(None, _CONTROLS).decode()
    else:
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    if "\n\n\n" in text or "\t" in text or _has_run(text):
        text = _RUN.sub(_shorter, text)
    greeting, thanks, end = _GREETING.match(text), None, text[-_FAREWELL:].lower()
    if "please" in end or "thank" in end or "thx" in end or "cheers" in end:
        thanks = _THANKS.search(text, max(0, len(text) - _FAREWELL))
    bare = text[greeting.end() if greeting else 0 : thanks.start() if thanks else len(text)]
    return bare if len(bare) == len(text) or len(bare.split(None, 3)) > 2 else text


def _has_run(text: str) -> bool:
    """Whether one character may stand four times in a row: whether three times it is what the last one was."""
    raw, size = (text.encode(), 1) if text.isascii() else (text.encode("utf-32-le", "surrogatepass"), 4)
    number = int.from_bytes(raw, "little")
    return (number ^ (number >> 8 * size)).to_bytes(len(raw), "little").find(bytes(3 * size)) >= 0


def _shorter(run: re.Match[str]) -> str:
    return run[1] * 3 if run[1] else "\n\n" if run[0][0] == "\n" else "    "


def cores(text: str) -> tuple[str, ...]:
    """What is left of ``text`` without a first or a last part that could be a gadget; empty where it has no such part.

    A prompt is cut where a sentence or a line ends, where a capital begins one without a stop before it, and where
    plain words meet code, formulas, noise or another script.
    """
    if len(text) > MOST:
        return ()
    cuts = _places(text)
    if not cuts:
        return ()
    start, end = _content(text[: cuts[0]]), _content(text[cuts[-1] :])
    if not start.isdisjoint(end):  # and so has every cut one word on both sides
        return ()
    told = [start, *(_content(text[one:other]) for one, other in pairwise(cuts)), end]
    ahead = [*accumulate(told[:0:-1], or_)][::-1]
    found: dict[str, None] = {}
    for cut, before, after in zip(cuts, accumulate(told[:-1], or_), ahead, strict=True):
        if before.isdisjoint(after):
            first, last = text[:cut].strip(), text[cut:].strip()
            if _could_be_gadget(first) and _stands_alone(last, after, first, _BACK):
                found[last] = None
            if _could_be_gadget(last) and _stands_alone(first, before, last, _AHEAD):
                found[first] = None
    return tuple(found)


_COMMON: Final = frozenset(
    words_of(
        """
    about above after again all also always among and another answer answers any anything are ask back bad
    because been before being below best better between big bit both but call called can case come complete
    consider correct could detail detailed did different difficult does doesn doing don done down each easy
    either else end etc even ever every example expert explain explanation extremely fact far few find first
    follow following for form from full fully further general get give given gives going good got great had hard
    has have having hello help her here high him his how however idea important into isn its itself job just
    keep kind know known last least less let like likely long look lot made make makes making many matter may
    maybe mean means mind more most much must name need needs never new next none not note now number off okay
    old once one only other our out over own part particular per perfect please point possible problem provide
    put question questions quick rather real really reason related reply result right run same say see seem set
    she should show simple since sir some something statement step steps still such sure system take task tell
    ten term terms text than thank thanks that the their them then there these they thing things think this
    those through time too top topic true try two type under understand until upon use used user using very via
    want wants was way ways well were what when where whether which while who whom whose why will with within
    without word words work works would write writing wrong year years yes yet you your yours yourself
        """
    )
)


def _content(text: str) -> set[str]:
    """The beginnings of the words that say what a text is of; pairs of characters where a script does not part its
    words."""
    if text.isascii():
        return {
            lower[:5]
            for word in words_of(text)
            if (len(word) > 2 or (len(word) > 1 and not word.islower())) and (lower := word.lower()) not in _COMMON
        }
    found: set[str] = set()
    for word in set(words_of(text)):
        if not word.isascii() and FAR.search(word):
            found.update(word[at : at + 2] for at in range(max(1, len(word) - 1)))
        elif len(word) > 2 or (len(word) > 1 and not word.islower()):
            lower = word.lower()
            if lower not in _COMMON:
                found.add(lower[:5])
    return found


def _could_be_gadget(part: str) -> bool:
    if len(part) < 20 and len(part.encode("utf-8", "replace")) < 20 and len(part.split(None, 2)) < 3:
        return False
    return len(part) <= 2 * MOST_WORDS or len(set(part.split())) <= MOST_WORDS


_WONDERS: Final = re.compile(r"\b(?:what|why|how)\b")
_BEGINS: Final = re.compile(r"(?:\A|[.!:;\n])\W*")
_POLITE: Final = r"(?:please|and|then|now|also|hi|hey|hello|can you|could you|help me|i need you to|i want you to)\W+"
_REQUEST: Final = (
    r"(?:which|who|whose|when|where|is|are|does|do|did|can|could|should|will|"
    r"would|let's|write|find|calculate|compute|solve|prove|show|explain|describe|list|give|make|create|implement|design|evaluate|"
    r"determine|simplify|tell|help|translate|summari[sz]e|generate|fix|convert|refactor|rewrite|define|compare|suggest|"
    r"recommend|draft|plan|name|add|build|debug|complete|correct|outline|count|sort|draw|sing|say|teach|play|compose|"
    r"continue|proofread|turn|invent|guess|review|edit|shorten|improve|optimi[sz]e|integrate|balance|schreib\w*|erklär\w*|"
    r"erzähl\w*|gib|nenne|implementiere|escrib[ea]|explica|dime|haz|écris|explique|rédige|donne|scrivi|spiega|escreva)\b"
)
_SAID: Final = re.compile(rf"({_REQUEST})|{_POLITE}")
_BACK: Final = re.compile(r"\b(?:th(?:is\b|ese\b|ose\b|(?:at|em)\W*$)|above\b|(?:it|him|her)\W*$)")
_PERSON: Final = re.compile(r"\b(?:he|she|his|her|him|they|their)\b")
_AHEAD: Final = re.compile(r":$|\b(?:following\b|below\b|these\b|(?:this|here)\W*$)")
_FEW: Final = 3
"""Words that make a request without a stop, and telling ones that make it clear of whom it speaks."""


def _stands_alone(core: str, content: set[str], part: str, points: re.Pattern[str]) -> bool:
    """Whether a core can be a request by itself: it speaks of something, is whole, does not point to the other part,
    and asks if anything does."""
    said = core.lower()
    if len(core.encode("utf-8", "replace")) < LEAST or not content or points.search(said):
        return False
    if len(content) < _FEW and _PERSON.search(said):
        return False
    if core[-1].isalpha() and core.isascii() and len(core.split(None, _FEW)) < _FEW:
        return False
    return _asks(said) or bool(FAR.search(core)) or not _asks(part.lower())


def _asks(text: str) -> bool:
    """Whether anything is asked in a text of small letters: with a question mark, a word of questions, or a request
    where a sentence begins, be it behind polite words. Each word is looked at once, whatever the text."""
    if "?" in text or "？" in text:
        return True
    if ("what" in text or "why" in text or "how" in text) and _WONDERS.search(text):
        return True
    seen = -1
    for begins in _BEGINS.finditer(text):
        at = begins.end()
        while at > seen:
            said = _SAID.match(text, at)
            if said and said[1]:
                return True
            seen, at = at, said.end() if said else at
    return False


_GAP: Final = 3
"""Words from one odd one to the next within a run of them."""


def _places(text: str) -> list[int]:
    """Where another part begins, ascending: the first `PLACES` and the last, within `SPAN` characters of either end."""
    if len(text) > 2 * SPAN:
        cut = len(text) - SPAN
        found = [*_places(text[:SPAN]), *(cut + place for place in _places(text[cut:]))]
    else:
        found = _starts(text, _ends_of(_beginnings(text)))
    return _ends_of(found)


def _ends_of(found: list[int]) -> list[int]:
    return found if len(found) <= 2 * PLACES else found[:PLACES] + found[-PLACES:]


def _starts(text: str, numbers: Sequence[int]) -> list[int]:
    """Where the words with these numbers stand."""
    found, rest, passed = [], text, 0
    for number in numbers:
        rest, passed = rest.split(None, number - passed)[-1], number
        found.append(len(text) - len(rest))
    return found


def _beginnings(text: str) -> list[int]:
    """The numbers of the words with which another part begins."""
    lines = list(map(str.split, text.split("\n")))
    words = list(chain.from_iterable(lines))
    told = natures(words)
    others = {*accumulate(map(len, lines)), *_changes(words, told)}
    found = []
    for at, (last, this) in enumerate(pairwise(told), 1):
        turns = last.stops or at in others
        if not (turns or this.starts) or last.holds or this.label:
            continue
        if turns or (last.low and _begins(last, this, *words[at : at + 2])):
            found.append(at)
    return found


def _begins(last: Nature, this: Nature, word: str, after: str = "") -> bool:
    """Whether a word begins a sentence though no stop stands before it: by its capital, by capitals, or as one asks."""
    capital = this.capital and (after[:1].islower() or after == "I")
    shouted = this.loud and len(word) > 3 and after.isupper()
    return capital or shouted or (this.opens and last.follows)


def _changes(words: Sequence[str], told: Sequence[Nature]) -> Sequence[int]:
    """The numbers of the words that are of another kind than the one before: plain, odd, or in another script.

    One or two words between equals are as they are, as in code or noise; a short odd word alone is a name or a term.
    """
    kinds = [nature.kind for nature in told]
    if not any(kinds):
        return ()
    odd = [at for at, kind in enumerate(kinds) if kind]
    for left, right in pairwise(odd):
        if right - left <= _GAP and kinds[left] == kinds[right]:
            kinds[left:right] = [kinds[left]] * (right - left)
    for at in odd:
        if kinds[at] == 1 and sum(kinds[max(0, at - 1) : at + 2]) == 1 and len(words[at]) < LONG:
            kinds[at] = 0
    return [at for at, (last, this) in enumerate(pairwise(kinds), 1) if last != this]
