"""The examples together: each is in the index, says what it is, and is run by a test."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
EXAMPLES = TESTS.parent / "examples"
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_example_is_in_the_index_and_run_by_a_test(folder: Path) -> None:
    assert f"]({folder.name}" in (EXAMPLES / "README.md").read_text()
    tests = [test.read_text() for test in TESTS.glob("test_*.py") if test != Path(__file__)]
    assert any(f'"examples" / "{folder.name}"' in test for test in tests)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_program_says_what_to_change_and_how_to_run_it(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.suffix in {".py", ".ino", ".json", ".yaml"}]
    for file in files:
        text = file.read_text()
        assert "to change" in text.lower(), file
        assert re.search(r"[Hh]ow to run|To run", text), file


def test_every_link_of_the_index_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (EXAMPLES / "README.md").read_text())
    assert len(links) > 8
    assert [link for link in links if not (EXAMPLES / link).exists()] == []
