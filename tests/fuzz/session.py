"""Runs a target in a process of its own, and again when that dies, until its time is over."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.target import BEGUN, load_target

__all__ = ["Outcome", "fuzz_target"]

ROOT = Path(__file__).parent.parent.parent
REGRESSIONS = ROOT / "tests" / "data" / "fuzz"

CORPUS, CRASHES, WORDS = "corpus", "crashes", "words"

INPUT_TIMEOUT_S = 10
MEMORY_MB = 3072
"""Of the whole process: the tokenizer's library and that of the grammars take most of it."""

NO_CRASH = (BEGUN, "slow-unit")

LEAST_S = 2.0
MOST_STARTS = 20
START_S = 120.0
"""Most that it may take to import everything, and to run the seeds."""

NICENESS = 10

PROGRESS = re.compile(
    rb"^#(\d+)\s+(\w+)\s+cov: (\d+) ft: \d+ corp: (\d+)/\S+.*? exec/s: \d+", re.MULTILINE
)
EXECUTED = re.compile(rb"stat::number_of_executed_units: (\d+)")


@dataclass(slots=True)
class Outcome:
    """What came of fuzzing one target."""

    target: str
    seconds: float = 0.0
    """Spent on inputs; starting is left out."""
    executions: int = 0
    edges_at_start: int = 0
    """Covered by the seeds."""
    edges_at_end: int = 0
    corpus: int = 0
    """Inputs that are worth keeping, as each covers something that the others don't."""
    starts: int = 0
    crashes: list[str] = field(default_factory=list)
    """Paths of the inputs: of each place that raised, each hang, each death of the process."""

    @property
    def executions_per_s(self) -> float:
        """Speed."""
        return self.executions / self.seconds if self.seconds else 0.0


def fuzz_target(name: str, seconds: float, folder: Path, chance: int = 0) -> Outcome:
    """Fuzz one target for so long.

    Args:
        name: of the target.
        seconds: of fuzzing, starts not counted.
        folder: for corpus, crashes and logs of this target; what is there is used again.
        chance: the seed of all that is random; 0 draws one.
    """
    for each in (CORPUS, CRASHES):
        (folder / each).mkdir(parents=True, exist_ok=True)
    _write_seeds(name, folder)
    outcome = Outcome(name)
    while not outcome.starts or (
        seconds - outcome.seconds >= LEAST_S and outcome.starts < MOST_STARTS
    ):
        log = folder / f"log-{outcome.starts}.txt"
        before = outcome.executions
        outcome.seconds += _run(name, max(seconds - outcome.seconds, LEAST_S), log, chance)
        chance += bool(chance)  # else it would end in the same way again
        _take_in(outcome, log.read_bytes())
        if outcome.executions == before:  # it does not even start
            outcome.crashes.append(str(log))
            break
    for path in sorted((folder / CRASHES).iterdir()):
        if path.suffix != ".txt" and not path.name.startswith(NO_CRASH):
            outcome.crashes.append(str(path))
    return outcome


def _write_seeds(name: str, folder: Path) -> None:
    target = load_target(name)
    for number, seed in enumerate((*target.seeds(), *_regressions(name))):
        (folder / CORPUS / f"seed-{number}").write_bytes(seed)
    (folder / WORDS).write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))


def _regressions(name: str) -> Iterable[bytes]:
    folder = REGRESSIONS / name
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


def _escaped(word: str) -> str:
    """Write a word as libFuzzer's dictionaries have it."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02X}"
        for byte in word.encode()
    )


def _run(name: str, seconds: float, log: Path, chance: int) -> float:
    """Run the target once; return for how many seconds it has read inputs."""
    crashes, words = log.parent / CRASHES, log.parent / WORDS
    command = [
        *(sys.executable, "-m", "tests.fuzz.run", name, str(crashes)),
        f"-max_total_time={max(1, round(seconds))}",
        f"-timeout={INPUT_TIMEOUT_S}",
        f"-seed={chance}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={crashes}/",
        *("-print_final_stats=1", "-report_slow_units=5"),
        *([f"-dict={words}"] if words.stat().st_size else []),
        str(log.parent / CORPUS),
    ]
    begun = crashes / BEGUN
    begun.unlink(missing_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT
        )
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        try:
            process.wait(seconds + START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return time.time() - begun.stat().st_mtime if begun.exists() else 0.0


def _take_in(outcome: Outcome, log: bytes) -> None:
    """Add what one run has written to what there is."""
    progress = [tuple(map(int, (m[1], m[3], m[4]))) for m in PROGRESS.finditer(log)]
    inited = next((int(m[3]) for m in PROGRESS.finditer(log) if m[2] == b"INITED"), 0)
    outcome.edges_at_start = outcome.edges_at_start or inited
    if progress:
        outcome.edges_at_end = max(outcome.edges_at_end, progress[-1][1])
        outcome.corpus = progress[-1][2]
    executed = EXECUTED.search(log)
    outcome.executions += int(executed[1]) if executed else (progress[-1][0] if progress else 0)
    outcome.starts += 1
