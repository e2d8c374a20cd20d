"""What runs the blocks notices what is wrong with one."""

import sys
import time
from pathlib import Path

import pytest

from tests.docs.blocks import OWN_TEST, Block, read_blocks
from tests.docs.clone import environment_of
from tests.docs.network import private_network
from tests.docs.runs import run_block
from tests.docs.summary import as_property, describe

PAGE = """\
```sh
echo a
```

<!-- run: node; until: "HTTP on"; expect: poem; expect: "a; b"; within: 90 -->
```sh
echo b
```

<!-- matrix: begin -->
1. in a list:

   ```python
   if True:
       print()
   ```
"""


def attempt(code: str, tmp_path: Path, **how: object) -> str | None:
    clone = tmp_path / "clone"
    clone.mkdir(exist_ok=True)
    block = Block(**{"page": "page.md", "line": 7, "language": "sh", "code": code, **how})  # type: ignore[arg-type]
    return run_block(block, [], clone, environment_of(clone))


def ends(pid: int) -> bool:
    """Tell whether a process that was killed is gone soon: the kernel takes a moment."""
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not Path(f"/proc/{pid}/exe").exists()


def test_blocks_are_found_with_what_the_line_before_says() -> None:
    first, second, third = read_blocks("page.md", PAGE)
    assert first == Block("page.md", 1, "sh", "echo a\n")
    assert second == Block(
        "page.md", 6, "sh", "echo b\n", "node", ("poem", "a; b"), "HTTP on", 90.0
    )
    assert third == Block("page.md", 13, "python", "if True:\n    print()\n", "node")


@pytest.mark.parametrize(
    ("comment", "mistake"),
    [
        ("run: nod", "there is no place 'nod'"),
        ("run: node, until: x y", "there is no place"),
        ("run: node; utnil: x", "this is not understood: 'utnil: x'"),
        ("expect: a; node", "this is not understood: 'node'"),
        ("run: tests/test_none.py", "tests/test_none.py does not run it"),
        ("run: tests/test_words.py", "does not run it"),
    ],
)
def test_a_comment_that_says_something_else_is_a_mistake(comment: str, mistake: str) -> None:
    [block] = read_blocks("docs/page.md", f"<!-- {comment} -->\n```sh\ntrue\n```\n")
    assert mistake in (block.mistake or "")


def test_what_is_expected_may_have_quotes_in_it() -> None:
    page = '<!-- expect: {"a":"b"}; expect: "c; d"; expect: "e":"f" -->\n```sh\ntrue\n```\n'
    [block] = read_blocks("page.md", page)
    assert block.expects == ('{"a":"b"}', "c; d", '"e":"f"')


def test_a_block_may_be_for_a_test_of_its_own() -> None:
    page = "<!-- run: tests/test_writing_a_bridge.py -->\n```sh\ntrue\n```\n"
    [block] = read_blocks("docs/writing-a-bridge.md", page)
    assert (block.place, block.mistake) == (OWN_TEST, None)


def test_a_block_that_works_is_well(tmp_path: Path) -> None:
    assert attempt("echo a Poem; test -d ~ && ls", tmp_path, expects=("poem",)) is None


def test_each_line_of_a_block_must_work(tmp_path: Path) -> None:
    trouble = attempt("echo before\nfalse | true\necho after", tmp_path)
    assert trouble == "page.md:7: exit code 1\nbefore\n"


def test_the_output_must_be_as_expected(tmp_path: Path) -> None:
    trouble = attempt("echo prose", tmp_path, expects=("prose", "poem"))
    assert trouble == "page.md:7: its output does not contain 'poem'\nprose\n"


def test_what_is_in_the_background_belongs_to_a_block(tmp_path: Path) -> None:
    assert attempt("(sleep 0.2; echo late) &", tmp_path, expects=("late",)) is None


def test_a_block_that_goes_on_is_ended_when_it_has_said_enough(tmp_path: Path) -> None:
    begin = time.monotonic()
    pid = tmp_path / "pid"
    code = f"sleep 100 & echo $! >{pid}\necho HTTP on port 8000\nsleep 100"
    assert attempt(code, tmp_path, until="HTTP on") is None
    assert time.monotonic() - begin < 20
    assert ends(int(pid.read_text()))


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        ("exit 0", "it ended without saying 'HTTP on'"),
        ("sleep 100", "in 0.3 s without saying 'HTTP on'"),
    ],
)
def test_a_block_that_never_says_enough_is_wrong(tmp_path: Path, code: str, trouble: str) -> None:
    assert trouble in (attempt(code, tmp_path, until="HTTP on", within_s=0.3) or "")


def test_a_block_that_does_not_end_is_wrong(tmp_path: Path) -> None:
    assert "did not end in 0.3 s" in (attempt("sleep 100", tmp_path, within_s=0.3) or "")


def test_a_private_network_has_every_port_free_and_keeps_nothing(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    variables = environment_of(clone)
    python = str(Path(sys.executable).parent)  # as "python" it is not everywhere
    variables["PATH"] = f"{python}:{variables['PATH']}"
    listen = "import socket; socket.create_server(('127.0.0.1', 1883)); print('listens')"
    block = Block("page.md", 1, "python", listen)
    daemon = Block(
        "page.md", 1, "sh", "setsid sleep 100 </dev/null >/dev/null 2>&1 & echo $!\nsleep 0.3; exit"
    )
    with private_network() as network:
        for _ in range(2):
            assert run_block(block, network.enter, clone, variables) is None
        assert run_block(daemon, network.enter, clone, variables) is None
        pid = int((tmp_path / "output.txt").read_text())
        assert Path(f"/proc/{pid}/exe").exists()
    assert ends(pid)


def test_the_summary_says_how_many_of_each() -> None:
    blocks = [Block("p", 1, "sh", "", place) for place in ("clone", "clone", "node", "card", "ci")]
    ends = ("run", "failed", "skipped", "not run", "not run")
    recorded = [as_property(block, end)[1] for block, end in zip(blocks, ends, strict=True)]
    assert describe(recorded) == (
        "blocks of commands in the documentation: 1 were run (1 in a clone), "
        "1 are what CI itself runs, 1 need the card and were not run, 1 failed, 1 were left out"
    )
