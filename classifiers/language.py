"""The language of a prompt, from its script and its commonest words: small, dependency-free, never a certainty."""

from __future__ import annotations

import re
from itertools import chain, repeat
from struct import Struct
from typing import Final

_SAMPLE: Final = 2000
"""Characters that are looked at; more would not change the answer."""

_SCRIPTS: Final = {
    "latin": "A-Za-zÀ-ɏḀ-ỿ",
    "han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "kana": "぀-ヿㇰ-ㇿ",
    "ko": "가-힯ᄀ-ᇿ㄰-㆏",
    "cyrillic": "Ѐ-ӿ",
    "arabic": "؀-ۿݐ-ݿ",
    "he": "֐-׿",
    "el": "Ͱ-Ͽ",
    "hi": "ऀ-ॿ",
    "bn": "ঀ-৿",
    "pa": "਀-੿",
    "gu": "઀-૿",
    "ta": "஀-௿",
    "te": "ఀ-౿",
    "kn": "ಀ-೿",
    "ml": "ഀ-ൿ",
    "th": "฀-๿",
    "ka": "Ⴀ-ჿ",
    "hy": "԰-֏",
    "am": "ሀ-፿",
}
_SCRIPT_RES: Final = {name: re.compile(f"[{chars}]") for name, chars in _SCRIPTS.items()}
_NON_LATIN: Final = re.compile(f"[{''.join(chars for name, chars in _SCRIPTS.items() if name != 'latin')}]")
_WEIGHT: Final = {"latin": 0.25, "han": 1.5, "kana": 1.0}
"""A Han character is worth a short word, a Latin letter a quarter of one: names of products in Latin letters do not
make a Chinese question English."""

_STOP_WORDS: Final = {
    "en": "the a an is are was were of to and in that it for on with as at by this be from or what how why which who "
    "i you me my your can could would should do does did not if there tell write give explain make please hello hi "
    "thanks find list name show best between about have has we they he she code python help when where then than",
    "es": "el la los las un una unos de del que y en por para con no se su es son está cómo qué cuál quién dónde "
    "cuándo porque pero más este esta hola gracias puedes escribe explica dime me mi haz al lo como hay",
    "fr": "le la les un une des du de et est sont que qui dans pour par sur avec pas ne ce cette ces il elle nous "
    "vous je mon ma comment pourquoi quel quelle où bonjour merci écris explique au aux moi être fait à en",
    "de": "der die das den dem des ein eine einen einem und ist sind nicht mit für von zu auf im ich du wir ihr sie "
    "es geht hat wie was warum welche wer wo bitte schreibe erkläre hallo danke mir mein kann auch als "
    "aus bei über gib",
    "it": "il lo la gli le un una di del della che è sono e per con non in nel come cosa perché quale chi dove quando "
    "ciao grazie scrivi spiega dimmi mi mio puoi questo questa più ma se al dei delle una ho",
    "pt": "o os as um uma de do da dos das que e é são em no na por para com não se como qual quem onde quando porque "
    "mas mais este esta olá obrigado escreva explique me meu você pode ao isso foi",
    "nl": "de het een en is zijn van in op voor met niet dat die wat hoe waarom welke wie waar ik je jij u we hallo "
    "bedankt schrijf leg mij mijn kun kan ook aan als naar over om te geef",
    "pl": "i w na z do nie jest są się że to co jak dlaczego który która kto gdzie kiedy proszę napisz wyjaśnij mi "
    "mój dla po od czy oraz przez ale dzień dobry",
    "tr": "ve bir bu için ile ne nasıl neden hangi kim nerede mi mı mu da de çok var olan olarak bana yaz açıkla "
    "merhaba lütfen gibi daha kadar nedir",
    "vi": "là và của có không cho một các những được trong với tôi bạn hãy viết làm như thế nào gì tại sao bài về thơ",
    "id": "yang dan di ke dari untuk dengan adalah ini itu tidak apa bagaimana mengapa siapa saya anda kamu buat "
    "tolong jelaskan tulis dalam pada akan atau sebuah",
    "sv": "och att det som en ett är på för med inte av till hur vad varför vilken vem jag du vi kan hej tack skriv "
    "förklara mig min den de",
    "da": "og at det som en et er på for med ikke af til hvordan hvad hvorfor hvilken hvem jeg du vi kan hej tak skriv "
    "forklar mig min den de",
    "no": "og at det som en et er på for med ikke av til hvordan hva hvorfor hvilken hvem jeg du vi kan hei takk skriv "
    "forklar meg min den de",
    "fi": "ja on ei se että mikä miten miksi kuka missä minä sinä voi kirjoita selitä hei kiitos minulle oli ovat kun",
    "cs": "a je v na se že s z do to jak co proč který kdo kde kdy prosím napiš vysvětli mi můj pro po od ale jsou",
    "ro": "și în de la cu este sunt un o pe pentru nu ce cum care cine unde când că mai scrie explică salut mulțumesc",
    "hu": "a az és egy hogy nem is van mi miért hogyan ki hol mikor kérlek írj magyarázd el nekem szia köszönöm meg",
}  # fmt: skip
_BY_WORD: Final[dict[str, list[str]]] = {}
for _code, _words in _STOP_WORDS.items():
    for _word in dict.fromkeys(_words.split()):
        _BY_WORD.setdefault(_word, []).append(_code)
_CODES: Final = tuple(_STOP_WORDS)
_VOTE: Final = 180
"""A word's vote, in parts: each of the languages that share it gets a whole number of them."""
_LANE: Final = 32
"""Bits for what a language gets."""
_LANES: Final = Struct(f"<{len(_CODES)}I")
_VOTES: Final = {
    word: sum(_VOTE // len(codes) << _LANE * _CODES.index(code) for code in codes) for word, codes in _BY_WORD.items()
}
"""What every language gets for a word, one beside the other in one number."""
_LEAD: Final = {word: _VOTE // len(codes) * (("en" in codes) - (codes != ["en"])) for word, codes in _BY_WORD.items()}
"""What English gets for a word before the most that another language does."""

_WORD: Final = re.compile(r"[^\W\d_]+")
_APART: Final = bytes(ord(chr(byte).lower()) if chr(byte).isalpha() and byte < 128 else 32 for byte in range(256))
"""Small letters in ASCII as they are, capital ones small, and all else as spaces."""
_MARKS: Final = {
    "de": "ßäöü", "es": "ñ¿¡", "pt": "ãõ", "pl": "łążśćńźę", "tr": "ğşı", "cs": "řěůč", "hu": "őű", "ro": "șță",
    "vi": "ơưđạảấầậắằặẹẻếềệịọỏốồộớờợụủứừựỳỵỷỹ", "fr": "œçêè", "sv": "å", "da": "æø", "no": "æø",
}  # fmt: skip
_MARKED: Final = frozenset("".join(_MARKS.values()))
_FENCED: Final = re.compile(r"```[^`]*```")


def detect(text: str) -> str:
    """The ISO 639-1 code of a text's main language, or ``und`` where nothing tells.

    Script decides first (kana means Japanese, Hangul Korean); within the Latin script the language with most of its
    commonest words wins, then accents. Looks at the first `_SAMPLE` characters outside code fences.
    """
    sample = text[:_SAMPLE]
    if "```" in sample:
        sample = _FENCED.sub(" ", sample) or sample
    if sample.isascii() or not _NON_LATIN.search(sample):
        return _latin(sample)
    counts = {name: len(rx.findall(sample)) * _WEIGHT.get(name, 0.35) for name, rx in _SCRIPT_RES.items()}
    script = max(counts, key=counts.__getitem__)
    if script in ("han", "kana"):
        return "ja" if counts["kana"] > 0.1 * counts["han"] and counts["kana"] else "zh"
    if script == "cyrillic":
        return "uk" if any(c in "іїєґІЇЄҐ" for c in sample) else "ru"
    if script == "arabic":
        return "ur" if any(c in "ٹڈڑےں" for c in sample) else "fa" if any(c in "پچژگ" for c in sample) else "ar"
    return _latin(sample) if script == "latin" else script


def _latin(sample: str) -> str:
    lowered = "" if sample.isascii() else sample.lower()
    words = _WORD.findall(lowered) if lowered else sample.encode().translate(_APART).decode().split()
    if not lowered and sum(map(_LEAD.get, words, repeat(0))) > 0:
        return "en"
    total = sum(map(_VOTES.get, words, repeat(0)))
    votes = [*_LANES.unpack(total.to_bytes(_LANES.size, "little"))]
    if found := _MARKED.intersection(lowered):
        for place, code in enumerate(_CODES):
            hits = sum(lowered.count(mark) for mark in found.intersection(_MARKS.get(code, "")))
            votes[place] += _VOTE // 2 * min(hits, 10)
    most = max(votes)
    if votes.count(most) == 1:
        return _CODES[votes.index(most)]
    best = {code for code, got in zip(_CODES, votes, strict=True) if got == most}
    first = chain((code for word in words for code in _BY_WORD.get(word, ())), _MARKS)
    return next(code for code in first if code in best) if most else "und"
