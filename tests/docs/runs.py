"""Blocks are run as they stand, and what they say is looked at."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.docs.blocks import Block
from tests.programs import POLL_S, require_program

__all__ = ["command_of", "judge", "require_programs", "run_block"]

PACKAGES = {
    "mosquitto": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "mosquitto_sub": "mosquitto-clients",
    "mosquitto_rr": "mosquitto-clients",
    "curl": "curl",
    "jq": "jq",
    "nc": "netcat-openbsd",
    "openssl": "openssl",
    "oscsend": "liblo-tools",
    "oscdump": "liblo-tools",
}
"""Debian's package of each program."""
END_S = 15.0
"""How long a command that is ended may take."""
SHOWN_CHARS = 2000
HEARS_CTRL_C = ("env", "--default-signal=INT")
"""Also where the tests were started by a shell in its background, which has it ignored."""


def command_of(block: Block) -> list[str]:
    """Return the program that runs a block; each of its lines must succeed."""
    if block.language == "python":
        return ["python", "-c", block.code]
    # What it left in the background belongs to it: its output, too.
    return ["bash", "-e", "-o", "pipefail", "-c", f"{block.code}\nwait"]


def require_programs(blocks: Iterable[Block]) -> None:
    """Install the programs that blocks call and that not every machine has; else skip the test."""
    words = {word for block in blocks if block.is_shell for word in re.findall(r"\w+", block.code)}
    for program in sorted(words & PACKAGES.keys()):
        require_program(program, PACKAGES[program])


def run_block(
    block: Block, enter: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> str | None:
    """Run a block in a directory; return what is wrong, None if all is well.

    Args:
        block: what is run.
        enter: what comes before its command, as to enter a network.
        directory: where it is run.
        environment: its variables.
    """
    output = directory.parent / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*enter, *HEARS_CTRL_C, *command_of(block)],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = _wait(process, output, block)
    finally:
        _end(process)
    return judge(block, code, output.read_text(errors="replace"))


def judge(block: Block, code: int | None, said: str) -> str | None:
    """Say what is wrong with the end and the output of a block; None if all is well.

    Args:
        block: what was run.
        code: its exit code; None if it was ended because it took too long, or said enough.
        said: its output.
    """
    wrong = None
    if block.until is not None:
        if block.until not in said:
            ended = "it ended" if code is not None else f"in {block.within_s:g} s"
            wrong = f"{ended} without saying {block.until!r}"
    elif code is None:
        wrong = f"it did not end in {block.within_s:g} s"
    elif code != 0:
        wrong = f"exit code {code}"
    missing = [text for text in block.expects if text.lower() not in said.lower()]
    if wrong is None and missing:
        wrong = f"its output does not contain {', '.join(map(repr, missing))}"
    return f"{block.name}: {wrong}\n{said[-SHOWN_CHARS:]}" if wrong else None


def _wait(process: subprocess.Popen[bytes], output: Path, block: Block) -> int | None:
    deadline = time.monotonic() + block.within_s
    while process.poll() is None:
        if time.monotonic() > deadline:
            return None
        if block.until is not None and block.until in output.read_text(errors="replace"):
            return None
        time.sleep(POLL_S * 5)
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a block and all that it started: as Ctrl-C would, and then by force."""
    with suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
