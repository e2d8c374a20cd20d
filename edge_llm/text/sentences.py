"""Text in sentences, cut out of a stream as they end.

A sentence goes out on the piece that ends it where its mark leaves no doubt, so that speech begins
early; after a doubtful one (an abbreviation, a number, an open quotation) what follows is awaited.
In doubt even then there is no border: two sentences in one breath sound better than one torn in
two. The sentences joined are the text, always: a wrong guess only moves a border.
"""

import re
from typing import Literal

from edge_llm.text.words import WIDE, cluster_border, word_ends

__all__ = ["SentenceSplitter", "ends_sentence", "sentence_ends"]

# Written by number: what looks like a Latin character and is none.
WIDE_MARKS = "。！？｡\uff0e"
FIRM_MARKS = "!?؟।॥‼⁇⁈⁉።။។\u06d4\u0589"
CLOSING = "\"'’“”«»\u2039\u203a)\\]}*_」』】》〉\uff09"
SPACES = " \xa0\u202f"
# French sets a space before the quote that closes, German none after the one that opens.
MARK = re.compile(rf"([.…{FIRM_MARKS}{WIDE_MARKS}]+)([{CLOSING}]*(?:[{SPACES}]»(?!\S))?)|\n")
# What opens and what closes it; German closes with what opens elsewhere.
PAIRS = dict(zip('"*“«»\u2039([{「『【《\uff08', '"*”»«\u203a)]}」』】》\uff09', strict=True)) | {
    "„": "“”"
}
PAIRED = re.compile(f"[{re.escape(''.join([*PAIRS, *PAIRS.values()]))}\n]")
BEFORE_WORD = re.compile(r"[\s„“”«»\"()\[\]{}「『【《\uff08—/*_]")
CLAUSE = re.compile(rf"(?:[,;:\u2013](?=\s)|[—،、\uff0c\uff1b\uff1a])[{CLOSING}]*")
SYLLABLE = re.compile(f"[{WIDE}가-힣]")
LETTERS_PER_SYLLABLE = 3  # one syllable takes about as long to say as three letters

# What a full stop stands behind: a plain word ends its sentence, "other" does unless a small letter
# follows, and the rest are abbreviations and numbers; the lists below say what follows those.
Kind = Literal["word", "leading", "numbered", "trailing", "other"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Always before something: no sentence ends with one of these.
LEADING = _words(
    "mr mrs ms mx messrs dr drs dra prof profs sen rep gov rev hon capt cmdr lt col maj sgt mt st"
    " ste sr sra srta sres dn ud uds vd gral lic mme mmes mlle mgr hr hrn fr frl fam dipl ing med"
    " hl kath sig sigg dott avv egr spett dhr mevr mw exmo vs cf approx ca vgl bzw bspw bzgl sog"
    " zzgl inkl exkl evtl ggf ggfs d.h z.b u.u z.t i.d.r e.g i.e eg ie viz p.ex p.ej bijv aprox"
    " env tzn ee ул пр просп пл акад проф св см"
)
# Before a number they are abbreviations, elsewhere they may be words.
NUMBERED = _words(
    "no nos nr nº n° num núm art arts fig figs vol vols sec ch chap cap kap abb abs abschn tab bd"
    " pt para pp pg pag pág págs blz tel fax max min eq ex ed est op bl jan feb febr mar apr jun"
    " jul aug sep sept oct okt nov dec dez стр гл рис кв str"
)
# Before a capital they end the sentence.
LAST = _words(
    "etc usw ecc enz itd itp a.m p.m u.v.m o.ä u.ä др руб тыс млн млрд"  # noqa: RUF001 - Russian
)
# They may end one: the next word tells, if it is one that often begins a sentence.
TRAILING = _words("inc ltd co corp bros dept ave blvd rd jr uu univ mio mrd std chr им")
# Two letters are an abbreviation as often as not, but not these.
SHORT_WORDS = _words(
    "it me us up so go do to is am he we be by my on in oh ah hi ha ok or er du es da zu ab an um"
    " ja wo so la là tu ça va ya yo sí si tú él не да мы ты он вы"
)
# Words that begin sentences, and hardly ever are what follows an initial or an ordinal.
STARTERS = _words(
    "a an the i you he she it we they this that these those there here then but and so if when"
    " what why who how where my your his her our their in on at as for yes no not now once let"
    " did do does is are was were can"
    " der die das ein eine ich du er sie es wir ihr dies diese dieser dann aber und wenn was warum"
    " wer wie wo mein dein sein da doch dort nun jetzt hier auch nur alle man kein keine ja nein im"
    " le les un une je tu il elle on nous vous ils elles ce cette ces c'est mais et puis alors"
    " los las el yo él ella este esta esto pero y cuando luego entonces lo gli io lei noi questo ma"
    " e poi allora het ik hij wij zij dit dat maar en os eu ele ela isto mas"
    " я ты он она оно мы вы они это но и а если когда что кто где потом там"  # noqa: RUF001 - Russian
)
CONNECTIVE = re.compile(
    r"\b(?:z\.\s?B|d\.\s?h|z\.\s?T|i\.\s?e|e\.\s?g|p\.\s?(?:ex|ej)|u\.\s?a|ad\ses)$", re.I
)
# They write "3." for "third". Without a language, two digits may be that in any.
ORDINAL_LANGUAGES = _words("de da nb nn no fi cs sk pl hu hr sl sr et lv tr is fo")
PLAIN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
DOTTED = re.compile(r"(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}")
NO_VOWEL = re.compile(r"[b-df-hj-np-tv-xz]+|[бвгджзклмнпрстфхцчшщ]+", re.I)
APOSTROPHE = re.compile("['’]")
LIST_ITEM = re.compile(r"\d{1,3}|[a-z]|[IVX]{1,4}")
ROMAN = re.compile("[IVXLC]{2,}")
ADDRESS = re.compile(r"[/@=&\\]|\w\.\w")
NEXT_WORD = re.compile(r"[\"“„«¿¡(]*([^\W\d_]+(?:['’][^\W\d_]+)?)(.?)", re.S)
HEAD = 40  # characters before a mark that may hold its word
LOOKAHEAD = 32  # characters after a mark that may decide
TAIL = 120  # characters at the end of a text that tell whether it is whole


class SentenceSplitter:
    """Collects pieces of text and gives out whole sentences, with the white space before them.

    The first sentence goes out however short it is, so that speech begins. Lines end sentences too.

    Args:
        min_chars: shorter sentences wait for the next one, to be said with it.
        max_chars: longer ones are cut at a clause, else at a word. Both in letters: a syllable of
            Chinese, Japanese or Korean counts as three.
        language: its code, if it is known (``de``, ``en-GB``); it tells what "3. " may mean.
    """

    def __init__(
        self, min_chars: int = 12, max_chars: int = 200, language: str | None = None
    ) -> None:
        self._min_chars = min_chars
        self._max_chars = max_chars
        self._language = language
        self._reset()

    def _reset(self) -> None:
        self._text = ""  # not given out yet
        self._begin = 0  # where in it the last sentence begins; below zero if that was cut
        self._seen = 0  # how far its marks are judged
        self._open = ""  # the quotes and brackets that what was given out left open
        self._is_first = True

    @property
    def pending(self) -> str:
        """The text that was not given out yet."""
        return self._text

    @property
    def unfinished(self) -> str:
        """What stands after the last sentence end; empty if all the text is whole sentences."""
        rest = self._text[max(self._begin, 0) :]
        ends = sentence_ends(rest, self._language)
        rest = rest[ends[-1] :] if ends else rest
        return rest if rest.strip() else ""

    def add(self, text: str) -> list[str]:
        """Return the sentences that this piece completes."""
        self._text += text
        return self._take(is_whole=False)

    def finish(self) -> list[str]:
        """Return what is left, now that no more text comes; ready for another text then."""
        sentences = self._take(is_whole=True)
        if self._text:
            sentences.append(self._text)
        self._reset()
        return sentences

    def _take(self, *, is_whole: bool) -> list[str]:
        sentences: list[str] = []
        while mark := MARK.search(self._text, self._seen):
            if parts := self._cut_to_max(mark.end()):
                sentences += parts
                continue
            ends = _ends(self._text, self._begin, mark, self._language, is_whole=is_whole)
            if ends is None or (ends and not is_whole and self._may_be_closed_yet(mark)):
                return sentences
            self._seen = mark.end()
            if ends and self._text[: mark.end()].strip():
                self._begin = mark.end()
                if mark[0] == "\n" or self._is_long_enough(self._text[: mark.end()].strip()):
                    sentences.append(self._give(mark.end()))
        self._seen = len(self._text)
        sentences += self._cut_to_max(self._seen)
        return sentences

    def _may_be_closed_yet(self, mark: re.Match[str]) -> bool:
        rest = self._text[mark.end() :]
        if mark[0] == "\n" or rest not in ("", *SPACES):
            return False
        left_open = _left_open(self._open, self._text[: mark.end()])
        return "«" in left_open if rest else left_open != ""

    def _is_long_enough(self, sentence: str) -> bool:
        is_long = self._is_first or _spoken_len(sentence) >= self._min_chars
        return is_long and _has_words(sentence)

    def _cut_to_max(self, end: int) -> list[str]:
        parts = []
        while (room := _max_len(self._text, end, self._max_chars)) < end:
            cut = self._begin if 0 < self._begin <= room else _breath(self._text, room)
            parts.append(self._give(cut))
            end -= cut
        return parts

    def _give(self, end: int) -> str:
        given, self._text = self._text[:end], self._text[end:]
        self._open = _left_open(self._open, given)
        self._begin -= end
        self._seen = max(self._seen - end, 0)
        self._is_first = False
        return given


def sentence_ends(text: str, language: str | None = None) -> list[int]:
    """Return where in a whole text its sentences end, each with the quotes that close it."""
    ends = []
    begin = 0
    for mark in MARK.finditer(text):
        end = mark.end()
        if _ends(text, begin, mark, language, is_whole=True) and _has_words(text[begin:end]):
            ends.append(end)
            begin = end
    return ends


def ends_sentence(text: str, language: str | None = None) -> bool:
    """Tell whether a text is a whole number of sentences; an empty one is."""
    text = text[-TAIL:].rstrip(" \t")
    ends = sentence_ends(text, language)
    return not text[ends[-1] if ends else 0 :].strip()


def _ends(
    text: str, begin: int, mark: re.Match[str], language: str | None, *, is_whole: bool
) -> bool | None:
    """Tell whether the sentence since ``begin`` ends at a mark; None if more must be seen."""
    if mark[0] == "\n":
        return True
    kind = _kind(text, begin, mark, language)
    is_plain = kind == "word" and not mark[2]
    after = text[mark.end() : mark.end() + LOOKAHEAD]
    if not after:
        return kind != "leading" if is_whole else is_plain or None
    if mark[1][-1] in WIDE_MARKS:  # after a quotation Japanese goes on with a particle
        return not (mark[2] and after[0] in "とっ、\uff0c")
    if not after[0].isspace():  # Chinese with Latin marks sets no space
        return mark[1][-1] in FIRM_MARKS and SYLLABLE.match(after) is not None
    if is_plain:
        return True
    return _ends_before(after, kind, is_whole=is_whole or len(after) == LOOKAHEAD)


def _ends_before(after: str, kind: Kind, *, is_whole: bool) -> bool | None:
    """Tell by what follows a doubtful mark whether the sentence ends there."""
    following = after.lstrip()
    if "\n" in after[: len(after) - len(following)]:
        return True
    if not following:
        return is_whole or None
    if following[0].islower() or following[0] in ".…,;:-—\u2013([":
        return False
    if kind == "trailing":
        word = NEXT_WORD.match(following)
        if word and not word[2] and not is_whole:
            return None
        return bool(word and word[1].lower() in STARTERS and word[2] != ".")
    return not (kind == "leading" or (kind == "numbered" and following[0].isdigit()))


def _kind(text: str, begin: int, mark: re.Match[str], language: str | None) -> Kind:
    head = text[max(begin, 0, mark.start() - HEAD) : mark.start()]
    if mark[1] != ".":
        is_doubtful = "." in mark[1] or "…" in mark[1] or ADDRESS.search(head.split(" ")[-1])
        return "other" if is_doubtful else "word"
    word = BEFORE_WORD.split(head)[-1]
    is_item = begin >= 0 and not _has_words(text[begin : mark.start() - len(word)])
    if is_item and LIST_ITEM.fullmatch(word):
        return "leading"
    if word.isdigit():
        return _kind_of_number(word, language)
    if CONNECTIVE.search(head):
        return "leading"
    if not word and head and not head[-1].isspace():
        return "word"  # it ends with a quote or a bracket
    return _kind_of_abbreviation(word.lower()) or _kind_of_word(word)


def _kind_of_number(word: str, language: str | None) -> Kind:
    """Tell an ordinal, as German and its neighbours write it, from a number."""
    if language is None:
        return "trailing" if len(word) <= 2 else "other"
    return "trailing" if re.split("[-_]", language)[0].lower() in ORDINAL_LANGUAGES else "other"


def _kind_of_abbreviation(word: str) -> Kind | None:
    word = APOSTROPHE.split(word)[-1]  # l'Avv.
    if word in LEADING:
        return "leading"
    if word in LAST:
        return "other"
    if word in TRAILING or DOTTED.fullmatch(word):
        return "trailing"
    return "numbered" if word in NUMBERED or word.endswith("str") else None


def _kind_of_word(word: str) -> Kind:
    if word and SYLLABLE.match(word[-1]):
        return "word"
    if len(word) == 1 or ROMAN.fullmatch(word):
        return "trailing"
    if NO_VOWEL.fullmatch(word) and not word.isupper():
        return "trailing"
    is_plain = len(word) >= 3 or word.lower() in SHORT_WORDS
    return "word" if is_plain and PLAIN.fullmatch(word) else "other"


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _left_open(stack: str, text: str) -> str:
    """Return the quotes and brackets that are open after a text, given those before it."""
    for sign in PAIRED.findall(text):
        if sign == "\n":
            stack = ""
        elif stack and sign in PAIRS[stack[-1]]:
            stack = stack[:-1]
        elif sign in PAIRS:
            stack += sign
    return stack


def _spoken_len(text: str) -> int:
    if text.isascii():
        return len(text)
    return len(text) + (LETTERS_PER_SYLLABLE - 1) * len(SYLLABLE.findall(text))


def _max_len(text: str, end: int, max_chars: int) -> int:
    """Return where in a text so much is said as takes ``max_chars`` letters, or ``end``."""
    text = text[: min(end, max_chars + 1)]
    if _spoken_len(text) <= max_chars:
        return end
    for index, sign in enumerate(text):
        max_chars -= LETTERS_PER_SYLLABLE if SYLLABLE.match(sign) else 1
        if max_chars < 0:
            return max(index, 1)
    return end


def _breath(text: str, room: int) -> int:
    """Return where in its first ``room`` characters a run-on can best be cut."""
    clauses = [clause.end() for clause in CLAUSE.finditer(text, 0, room + 1)]
    clauses = [end for end in clauses if room // 4 < end <= room]
    if clauses:
        return clauses[-1]
    words = [end for end in word_ends(text[: room + 1]) if end <= room]
    return words[-1] if words else cluster_border(text, room) or room
