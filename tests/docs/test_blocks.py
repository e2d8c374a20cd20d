"""Every command that README.md, docs/ and examples/ show is run, as it stands there."""

import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from edge_llm.errors import EdgeLLMError
from edge_llm.plugin import GROUP, find_bridges
from edge_llm.settings import load_settings
from tests.debian_root import installed_machine
from tests.docs import summary
from tests.docs.blocks import CHECKED, OWN_TEST, PROSE, SHELLS, Block, all_blocks, run_in
from tests.docs.clone import environment_of, make_clone, make_fresh_clone
from tests.docs.fleet import open_fleet
from tests.docs.machine import enter_machine
from tests.docs.network import Network, private_network
from tests.docs.node import open_node, settings_of
from tests.docs.runs import require_programs, run_block

Record = Callable[[str, object], None]


def attempt(
    blocks: Iterable[Block], record: Record, run: Callable[[Block], str | None]
) -> list[str]:
    """Run blocks one after another, all of them; return what is wrong with any."""
    wrong = []
    for block in blocks:
        trouble = run(block)
        record(*summary.as_property(block, "failed" if trouble else "run"))
        if trouble:
            wrong.append(trouble)
    return wrong


@contextmanager
def counted(blocks: Iterable[Block], record: Record) -> Iterator[None]:
    """Say of blocks that they were left out, if the test is skipped."""
    try:
        yield
    except pytest.skip.Exception:
        for block in blocks:
            record(*summary.as_property(block, "skipped"))
        raise


def pages_of(*places: str) -> list[list[Block]]:
    """Return the blocks for some places, page by page."""
    return [list(group) for _, group in groupby(run_in(*places), key=lambda block: block.page)]


def attempt_page(blocks: list[Block], network: Network, folder: Path, record: Record) -> list[str]:
    """Run the blocks of a page in a clone, all in one network."""
    folder.mkdir()
    clone = make_clone(folder)
    variables = environment_of(clone)
    return attempt(blocks, record, lambda block: run_block(block, network.enter, clone, variables))


def test_every_block_can_be_run_or_says_what_it_needs(record_property: Record) -> None:
    blocks = all_blocks()
    mistakes = [f"{block.name}: {block.mistake}" for block in blocks if block.mistake]
    known = (*SHELLS, *CHECKED, *PROSE)
    mistakes += [
        f"{block.name}: nobody knows how to try {block.language or 'a block without a language'!r}"
        f" (known: {', '.join(known)})"
        for block in blocks
        if block.language not in known
    ]
    assert not mistakes, "\n".join(mistakes)
    assert sum(block.is_shell for block in blocks) > 10
    for block in run_in("card", "ci"):
        record_property(*summary.as_property(block, "not run"))
    for block in run_in(OWN_TEST):  # which says so itself if it fails
        record_property(*summary.as_property(block, "run"))


@pytest.mark.timeout(240)
def test_the_commands_for_a_clone(tmp_path: Path, record_property: Record) -> None:
    pages = [page for page in pages_of("clone", "node") if {b.place for b in page} == {"clone"}]
    blocks = [block for page in pages for block in page]
    wrong = []
    with counted(blocks, record_property), private_network() as network:
        require_programs(blocks)
        for number, page in enumerate(pages):
            wrong += attempt_page(page, network, tmp_path / str(number), record_property)
            network.kill_all()
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.timeout(240)
def test_the_commands_beside_a_node(tmp_path: Path, record_property: Record) -> None:
    """A page that needs a node somewhere has it everywhere."""
    pages = [page for page in pages_of("clone", "node") if "node" in {b.place for b in page}]
    blocks = [block for page in pages for block in page]
    wrong = []
    clone = make_clone(tmp_path)
    with counted(blocks, record_property):
        require_programs(blocks)
    with (
        counted(blocks, record_property),
        private_network() as network,
        open_node(network, clone, environment_of(clone)),
    ):
        for number, page in enumerate(pages):
            wrong += attempt_page(page, network, tmp_path / str(number), record_property)
    assert not wrong, "\n\n".join(wrong)


def test_the_commands_beside_a_fleet(tmp_path: Path, record_property: Record) -> None:
    blocks = run_in("fleet")
    clone = make_clone(tmp_path)
    variables = environment_of(clone)
    with counted(blocks, record_property):
        require_programs(blocks)
    with (
        counted(blocks, record_property),
        private_network() as network,
        open_fleet(network, clone, variables),
    ):
        wrong = attempt(
            blocks,
            record_property,
            lambda block: run_block(block, network.enter, clone, variables),
        )
    assert not wrong, "\n\n".join(wrong)
    assert blocks


@pytest.mark.timeout(900)  # whoever comes first installs it, for all tests
def test_the_commands_on_an_installed_machine(tmp_path: Path, record_property: Record) -> None:
    blocks = run_in("machine")
    here = tmp_path / "here"
    here.mkdir()
    with counted(blocks, record_property), installed_machine(tmp_path / "machine") as machine:
        enter = enter_machine(machine)
        wrong = attempt(
            blocks, record_property, lambda block: run_block(block, enter, here, os.environ)
        )
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.timeout(240)
def test_the_commands_for_a_fresh_clone(tmp_path: Path, record_property: Record) -> None:
    clone = make_fresh_clone(tmp_path)
    blocks = run_in("fresh")
    variables = environment_of(clone)
    wrong = attempt(blocks, record_property, lambda block: run_block(block, [], clone, variables))
    assert not wrong, "\n\n".join(wrong)
    assert blocks


def test_the_settings_are_settings() -> None:
    """What a page says is right together, as far as one gets; what is a package's is only TOML."""
    wrong: list[str] = []
    blocks = [block for block in all_blocks() if block.language == "toml"]
    for _, page in groupby(blocks, key=lambda block: block.page):
        so_far: list[str] = []
        for block in page:
            so_far.append(block.code)
            together = settings_of(so_far)
            if together.keys() & {"project", "build-system"}:
                so_far.pop()
                continue
            wrong += complain(block, together)
    assert not wrong, "\n".join(wrong)


def complain(block: Block, values: dict[str, Any]) -> Iterator[str]:
    installed = {point.name for point in entry_points(group=GROUP)}
    own = {name: table for name, table in values.get("bridge", {}).items() if name in installed}
    try:
        load_settings(**values)
        find_bridges(load_settings(**{**values, "bridge": own}))
    except EdgeLLMError as exc:
        yield f"{block.name}: {exc}"


def test_json_and_yaml_can_be_read() -> None:
    yaml: Any = importlib.import_module("yaml")  # it publishes no types
    for block in all_blocks():
        if block.language == "json":
            json.loads(block.code)
        elif block.language == "yaml":
            assert yaml.safe_load(block.code), block.name
