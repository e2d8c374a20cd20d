"""Texts in sentences and words, cut to fit, and put together from tokens."""

from collections.abc import Iterable, Sequence

from edge_llm.engine.detokenize import Detokenizer, StopStrings
from edge_llm.text import (
    FittingText,
    SentenceSplitter,
    WordSplitter,
    cut_to_bytes,
    split_to_bytes,
)
from edge_llm.text.sentences import ends_sentence, sentence_ends
from edge_llm.text.words import cluster_border, word_ends
from tests.fuzz.source import Source, join
from tests.fuzz.target import Target

LANGUAGES = (None, "de", "en-GB", "fi", "ja", "fr")
BYTES = [bytes([byte]) for byte in range(256)]


def check(data: bytes) -> None:
    source = Source(data)
    language, max_bytes = source.choice(LANGUAGES), source.number(16, 300)
    size, max_chars = source.byte() % 16 + 1, source.number(1, 250)
    stop = source.text()
    whole = source.rest()
    text = _check_detokenizer(whole)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    _check_sentences(text, pieces, language, max_chars)
    _check_words(text, pieces)
    _check_cuts(text, max_bytes)
    _check_fitting(text, pieces, max_bytes)
    _check_stop(text, pieces, stop)


def _check_detokenizer(data: bytes) -> str:
    detokenizer = Detokenizer(BYTES)
    text = "".join(detokenizer.add(byte) for byte in data)
    assert data.decode(errors="replace").startswith(text)
    assert len(data.decode(errors="replace")) - len(text) <= 3, "more than a character is held back"
    return text


def _check_sentences(
    text: str, pieces: Sequence[str], language: str | None, max_chars: int
) -> None:
    splitter = SentenceSplitter(min_chars=12, max_chars=max_chars, language=language)
    sentences = [sentence for piece in pieces for sentence in splitter.add(piece)]
    assert text == "".join(sentences) + splitter.pending
    sentences += splitter.finish()
    assert "".join(sentences) == text
    assert all(sentences)
    ends = sentence_ends(text, language)
    assert ends == sorted(set(ends))
    assert all(0 < end <= len(text) for end in ends)
    ends_sentence(text, language)


def _check_words(text: str, pieces: Sequence[str]) -> None:
    splitter = WordSplitter()
    words = [word for piece in pieces for word in splitter.add(piece)] + splitter.finish()
    assert "".join(words) == text
    assert all(words)
    ends = word_ends(text)
    assert ends == sorted(set(ends))
    for index in range(0, len(text) + 1, 7):
        assert 0 <= cluster_border(text, index) <= index


def _check_cuts(text: str, max_bytes: int) -> None:
    cut = cut_to_bytes(text, max_bytes)
    assert len(cut.encode()) <= max_bytes
    assert text.startswith(cut.removesuffix("…").rstrip()) or text.startswith(cut)
    if len(text.encode()) <= max_bytes:
        assert cut == text
    parts = split_to_bytes(text, max_bytes)
    assert "".join(parts) == text
    assert all(0 < len(part.encode()) <= max_bytes for part in parts)


def _check_fitting(text: str, pieces: Sequence[str], max_bytes: int) -> None:
    for whole_pieces in (False, True):
        fitting = FittingText(max_bytes, whole_pieces=whole_pieces)
        said = [fitting.add(piece) for piece in pieces]
        said.append(fitting.finish())
        told = "".join(said)
        assert len(told.encode()) <= max_bytes
        if len(text.encode()) <= max_bytes:
            assert told == text
        assert text.startswith(told.removesuffix("…").rstrip()) or text.startswith(told)
        assert fitting.is_full
        assert fitting.add("more") == ""


def _check_stop(text: str, pieces: Sequence[str], stop: str) -> None:
    if not stop:
        return
    strings = StopStrings([stop, "END"])
    said = ""
    has_stopped = False
    for piece in pieces:
        more, has_stopped = strings.add(piece)
        said += more
        if has_stopped:
            break
    said += strings.finish()
    assert stop not in said
    assert "END" not in said
    assert has_stopped == (stop in text or "END" in text)
    assert text.startswith(said)
    if not has_stopped:
        assert said == text


def seeds() -> Iterable[bytes]:
    texts = [
        "Hello there. How are you? I am fine! Dr. Smith said: “No.” And left…",
        "Am 3. Mai kam er z. B. um 5 Uhr. „Gut“, sagte sie. Usw. Und dann?",
        "你好。你好你好！ 「はい。」と彼は言った。 안녕하세요. 반갑습니다.",
        "🦊👍🏽 e\u0301 👨\u200d👩\u200d👧\u200d👦 🇩🇪🇫🇷 क्षि ﾊﾞ\n\n1. One\n2. Two",
        "unbreakable" * 30,
        "a , b ; c — d… e.g. i.e. z.B. www.example.org/x.html?a=b 3.14 1,000.50",
        " \t\n \n" * 20,
        "\u0301" * 90 + "\u200d" * 50 + "«Oui !» dit-il. (Non.) [Si.] *Ja.*",
    ]
    for index, text in enumerate(texts):
        yield join((index % 6, 16 * index, 0, index, 40, 0), "STOP", text)
        yield join((0, 10, 0, 0, 3, 0), "a", text)
    yield join((0, 0, 0, 0, 100, 0), "ND", b"\xf0\x9f\xa6 \xc3\x28 \xe2\x82 EEND")


TARGET = Target(
    check,
    seeds,
    (
        *(
            ". ",
            "! ",
            "? ",
            "…",
            "。",
            "「",
            "」",
            "“",
            "”",
            "„",
            "«",
            "»",
            "\n",
            "\u0301",
            "\u200d",
        ),
        *(
            "🦊",
            "🇩🇪",
            "👍🏽",
            "Dr.",
            "z. B.",
            "e.g.",
            "3.",
            "XIV.",
            "(",
            ")",
            "*",
            "ﾞ",
            "क्",
            "END",
            " ",
        ),
    ),
    max_len=600,
)
