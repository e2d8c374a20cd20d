"""Every page is found from the index, and every link leads somewhere."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.docs.generate import HEADING, anchor_of

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^\s*```.*?^\s*```", re.DOTALL | re.MULTILINE)

PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("README.md")),
]


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            headings = [anchor_of(heading) for heading in HEADING.findall(prose(target))]
            assert anchor in headings, link


def test_every_page_is_in_the_index() -> None:
    index = LINK.findall((ROOT / "docs" / "README.md").read_text())
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= set(index)


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda p: p.name)
def test_every_picture_is_shown_and_drawn_here(picture: Path) -> None:
    """It needs nothing from elsewhere, and says in words what it shows."""
    root = ET.parse(picture).getroot()
    shown = [page for page in PAGES if picture.name in page.read_text()]
    assert shown
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert "title" in names
    assert not names & {"script", "image", "foreignObject"}
