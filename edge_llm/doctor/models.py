"""The model: its files, whether they fit, and what else can be said without the service."""

import asyncio
import contextlib
import json
import sys
import urllib.error
import urllib.request
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Iterable, Iterator
from statistics import median

from edge_llm.device.axcl_smi.tool import Unreadable
from edge_llm.doctor.card import read_cards
from edge_llm.doctor.case import Case
from edge_llm.doctor.check import cut
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn
from edge_llm.doctor.model_paths import model_directory
from edge_llm.doctor.pcie import REBOOT_CARD
from edge_llm.doctor.processes import find_nodes
from edge_llm.doctor.threads import in_thread
from edge_llm.engine.model import ModelDirectory
from edge_llm.engine.stacks import RESERVE_BYTES, memory_needed
from edge_llm.errors import ConfigurationError, ModelError
from edge_llm.tiny import MODEL_DIR

__all__ = ["HANGS", "examine_fit", "examine_model", "examine_server", "look_into"]

MIB = 2**20
HANGS = (
    "the disk or the network share of the model does not answer: see 'mount' and 'sudo dmesg', and "
    "keep models on a disk of this machine"
)
CUT_OFF = 0.9
"""The layers of a model differ by some 10 kB in 118 MB (facts 1.11)."""
FIND_S = 4.0  # for a disk that answers
SERVER_TIMEOUT_S = 3.0
ANSWER_BYTES = 65_536
LOOK_TIMEOUT_S = 60.0
"""For two graphs to be loaded on the card, and unloaded."""


async def _find(case: Case) -> ModelDirectory | ModelError:
    """Return the model; or what is wrong with it, which more than one check wants to know."""

    def find() -> ModelDirectory | ModelError:
        try:
            return ModelDirectory(model_directory(case))
        except ModelError as exc:
            return exc

    return await in_thread(find)


async def _found(case: Case) -> ModelDirectory | None:
    """Return the model if it is all right; what is wrong with it is said by ``examine_model``."""
    try:
        directory = await asyncio.wait_for(case.once(_find), FIND_S)
    except TimeoutError:
        return None
    return None if isinstance(directory, ModelError) else directory


def _is_asked(case: Case) -> bool:
    return case.model is not None or case.load or case.settings.engine.kind == "worker"


async def examine_model(case: Case) -> AsyncGenerator[Finding]:
    """Whether the files of the model are there, and whole."""
    name = "model.directory"
    if not _is_asked(case):
        yield skip(name, f"none runs here (engine.kind is {case.settings.engine.kind})")
        return
    if case.settings_error and case.model is None:
        yield skip(name, "the settings can't be read")
        return
    directory = await case.once(_find)
    if isinstance(directory, ModelError):
        yield fail(name, *cut(directory.message))
        return
    for finding in await in_thread(lambda: [*_examine_files(directory)]):
        yield finding


def _examine_files(directory: ModelDirectory) -> Iterator[Finding]:
    name = "model.directory"
    sizes = {file: file.stat().st_size for file in directory.layers}
    usual = median(sizes.values())
    short = [file for file, size in sizes.items() if size < CUT_OFF * usual]
    for file in short:
        what = f"{file} has {sizes[file]} bytes, the other layers {usual:.0f}: it is cut off"
        yield fail(name, what, "download it again; 'edge-llm model get NAME' checks what it gets")
    if short:
        return
    total = sum(sizes.values()) + directory.post.stat().st_size
    built_in = " (the built-in model)" if directory.path == MODEL_DIR else ""
    kind = f"{len(sizes)} layers, {total / 1e6:.0f} MB of {directory.layers[0].suffix} files"
    yield ok(name, f"{directory.path}{built_in}: {kind}, complete")


async def examine_fit(case: Case) -> AsyncGenerator[Finding]:
    """Whether the model fits into the memory that is free, of the card or of the host."""
    name = "model.memory"
    directory = await _found(case) if _is_asked(case) and not case.settings_error else None
    if directory is None:
        return
    needed = await in_thread(lambda: memory_needed(directory) // MIB)
    if directory.runtime == "onnx":
        yield await in_thread(lambda: _judge_host(case, needed))
        return
    reading = await case.once(read_cards)
    if reading is None or isinstance(reading, Unreadable) or not reading.cards:
        yield skip(
            name, f"it takes some {needed} MiB of the card's memory; what is free is unknown"
        )
        return
    index = case.settings.engine.worker.device
    card = next((card for card in reading.cards if card.index == index), reading.cards[0])
    total, free = card.cmm_total_mib, card.cmm_free_mib
    nodes = await in_thread(lambda: find_nodes(case.machine))
    users = [process.pid for process in reading.processes]
    if total is None or free is None:
        yield skip(name, f"it takes some {needed} MiB; the card does not say what it has")
    elif needed > total:
        what = f"it takes some {needed} MiB, and the card has {total} in all"
        yield fail(name, what, "take a smaller model: edge-llm model list")
    elif needed + RESERVE_BYTES // MIB <= free:
        yield ok(name, f"it takes some {needed} MiB, and {free} of the card's {total} are free")
    elif nodes and users:
        yield ok(name, f"it takes some {needed} MiB, and a node that runs here has {total - free}")
    else:
        by = f" (used by process {', '.join(map(str, users))})" if users else ""
        what = f"it takes some {needed} MiB, and only {free} of the card's {total} are free{by}"
        cure = (
            f"stop what else uses the card (/usr/bin/axcl/axcl-smi lists it); else: {REBOOT_CARD}"
        )
        yield fail(name, what, cure)


def _judge_host(case: Case, needed: int) -> Finding:
    name = "model.memory"
    for line in (case.machine.read("proc/meminfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            free = int(value.split()[0]) // 1024
            found = f"it takes some {needed} MiB of the host's memory; {free} are available"
            if needed > free and not find_nodes(case.machine):
                return fail(name, found, "take a smaller model, or a machine with more memory")
            return ok(name, found)
    return skip(name, f"it takes some {needed} MiB; what is free is unknown")


def examine_server(case: Case) -> Iterable[Finding]:
    """Whether the server that generates for the node answers."""
    engine = case.settings.engine
    servers = [
        (name, section.openai)
        for name, section in (("engine", engine), ("engine.backup", engine.backup))
        if section.kind == "openai"
    ]
    for name, server in servers:
        cure = f"is it running? see {name}.openai.base_url, and: curl {server.base_url}/models"
        try:
            request = urllib.request.Request(f"{server.base_url}/models")
            if key := server.read_api_key():
                request.add_header("Authorization", f"Bearer {key}")
            with urllib.request.urlopen(request, timeout=SERVER_TIMEOUT_S) as answer:
                body = json.loads(answer.read(ANSWER_BYTES) or b"{}")
        except urllib.error.HTTPError as exc:
            if exc.code in (401, 403):
                cure = f"set {name}.openai.api_key_file to a file with a key of that server"
            yield fail("model.server", f"{server.base_url} answers {exc.code}", cure)
        except ConfigurationError as exc:
            yield fail("model.server", exc.message, f"see {name}.openai.api_key_file")
        except (OSError, ValueError) as exc:
            why = getattr(exc, "reason", exc)
            yield fail("model.server", f"{server.base_url} does not answer: {why}", cure)
        else:
            names = [str(model.get("id")) for model in body.get("data") or ()]
            yield _judge_names(name, server.model, names)


def _judge_names(name: str, wanted: str | None, names: list[str]) -> Finding:
    if wanted is not None and names and wanted not in names:
        what = f"the server has no model {wanted!r}"
        return fail("model.server", what, f"set {name}.openai.model to one of: {', '.join(names)}")
    return ok("model.server", f"it answers, and has {', '.join(names[:5]) or 'no list of models'}")


async def look_into(case: Case) -> AsyncGenerator[Finding]:
    """What only the graphs tell, in a process of its own: a card that hangs would stop this one.

    It is asked to end, and never killed: a card whose process is killed may hang until the machine
    is switched off.
    """
    if case.model is None and not case.load:
        return
    directory = await _found(case)
    if directory is None:
        return
    if directory.runtime == "axmodel" and isinstance(await case.once(read_cards), Unreadable):
        yield skip("model.runtime", "not looked into, as the card can't be read")
        return
    job = {
        "model": str(directory.path),
        "worker": case.settings.engine.worker.model_dump(mode="json"),
        "load": case.load,
    }
    process = await create_subprocess_exec(
        sys.executable, "-m", "edge_llm.doctor.look", stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        if process.stdin:
            process.stdin.write(json.dumps(job).encode())
            process.stdin.close()
        async for finding in _read(process):
            yield finding
        if code := await process.wait():
            error = (await process.stderr.read()).decode(errors="replace") if process.stderr else ""
            last = (error.strip().splitlines() or [""])[-1]
            what = f"the process that looks into the model ended with {code}: {last}"
            yield fail("model.runtime", what, "see card.answers and card.log")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()


async def _read(process: Process) -> AsyncGenerator[Finding]:
    while process.stdout and (line := await process.stdout.readline()):
        try:
            status, subject, text = json.loads(line)
        except ValueError:  # the vendor's libraries print, too
            continue
        if status == "ok":
            yield ok(f"model.{subject}", text)
        else:
            wrong, cure = cut(text)
            judge = warn if status == "warn" else fail
            yield judge(f"model.{subject}", wrong, cure)
