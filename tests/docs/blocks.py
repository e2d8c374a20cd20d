"""The fenced blocks of the documentation, and what each says of itself.

A comment on the line before a block names where it is run, and what it must say:

    <!-- run: node; until: "HTTP on"; expect: poem; within: 90 -->

- ``run``: one of ``PLACES``; ``clone`` if it is left out, ``node`` for Python. Or the file of a
  test that runs this block in its own way.
- ``expect``: a text that its output must contain; may be there several times.
- ``until``: it would go on for ever; it is ended as soon as its output contains this text.
- ``within``: seconds that it may take, 60 by default.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CHECKED",
    "OWN_TEST",
    "PLACES",
    "PROSE",
    "SHELLS",
    "Block",
    "all_blocks",
    "read_blocks",
    "run_in",
]

ROOT = Path(__file__).parents[2]

SHELLS = ("sh", "bash")
CHECKED = ("python", "toml", "json", "yaml")
PROSE = ("text", "ini", "conf", "cpp", "js", "mermaid")
"""Languages of blocks that are shown to be read; nobody types them into a terminal."""

OWN_TEST = "own test"
"""The place of blocks that a test of another file runs."""
PLACES = {
    "clone": "in a clone",
    "node": "beside a node and a broker",
    "fleet": "beside a fleet of two nodes",
    "machine": "on an installed machine",
    "fresh": "in a fresh clone",
    "ci": "are what CI itself runs",
    OWN_TEST: "by tests of their own",
    "card": "need the card and were not run",
}

WITHIN_S = 60.0
COMMENT = re.compile(r"\s*<!--\s*(.*?)\s*-->\s*$")
ENTRY = re.compile(
    r'(run|expect|until|within):\s*(?:"([^"]*)"(?=\s*(?:;|$))|([^;]+?))\s*(?:;\s*|$)'
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    code: str
    place: str = "clone"
    expects: tuple[str, ...] = ()
    until: str | None = None
    within_s: float = WITHIN_S
    mistake: str | None = None
    """What is wrong with the comment before it."""

    @property
    def is_shell(self) -> bool:
        return self.language in SHELLS

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def all_blocks() -> list[Block]:
    """Return the blocks of all pages, in order."""
    pages = [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "examples").rglob("README.md")),
    ]
    return [
        block
        for page in pages
        for block in read_blocks(str(page.relative_to(ROOT)), page.read_text())
    ]


def run_in(*places: str) -> list[Block]:
    """Return the shell and Python blocks for some places."""
    return [
        block
        for block in all_blocks()
        if block.place in places and (block.is_shell or block.language == "python")
    ]


def read_blocks(page: str, text: str) -> Iterator[Block]:
    """Yield the blocks of a page."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        opened = re.match(r"(\s*)```+\s*(\w*)", lines[number])
        number += 1
        if not opened:
            continue
        indent, language = opened.groups()
        before = lines[number - 2] if number > 1 else ""
        begin = number
        while number < len(lines) and not lines[number].lstrip().startswith("```"):
            number += 1
        code = "\n".join(line.removeprefix(indent) for line in lines[begin:number])
        number += 1
        yield _with_comment(page, begin, language, code + "\n", before)


def _is_run_by(test: Path, page: str) -> str | None:
    name = page.rpartition("/")[2] if page.startswith("docs/") else page.rpartition("/")[0]
    if test.exists() and name.rpartition("/")[2] in test.read_text():
        return None
    return f"{test.relative_to(ROOT)} does not run it: it does not exist, or does not name {name}"


def _with_comment(page: str, line: int, language: str, code: str, before: str) -> Block:
    comment = COMMENT.match(before)
    said = comment[1] if comment else ""
    entries = [(name, quoted or plain) for name, quoted, plain in ENTRY.findall(said)]
    # A Python block mostly speaks to a node.
    first = {"place": "node"} if language == "python" else {}
    values = {name: value for name, value in entries if name != "expect"}
    place = values.get("run", first.get("place", "clone"))
    mistake = None
    if re.fullmatch(r"tests/test_\w+\.py", place):
        mistake = _is_run_by(ROOT / place, page)
        place = OWN_TEST
    elif place not in PLACES:
        mistake = f"there is no place {place!r} (there are: {', '.join(PLACES)})"
    elif re.match(r"(run|expect|until|within)\b", said) and ENTRY.sub("", said):
        mistake = f"this is not understood: {ENTRY.sub('', said)!r}"
    return Block(
        page=page,
        line=line,
        language=language,
        code=code,
        place=place,
        expects=tuple(value for name, value in entries if name == "expect"),
        until=values.get("until"),
        within_s=float(values.get("within", WITHIN_S)),
        mistake=mistake,
    )
