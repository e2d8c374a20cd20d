"""The machine that is examined: its files below a root, its programs, and who may use what.

The root is ``/``, but for tests, and for a card of another machine that is mounted somewhere.
"""

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

__all__ = ["SERVICE_USER", "Machine", "ProgramError", "Ran", "User"]

SERVICE_USER = "edge-llm"
"""Whom the service runs as, where it is installed."""

BIN = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
MOST_CHARS = 1_000_000
KILL_TIMEOUT_S = 0.5


class ProgramError(Exception):
    """A program could not be run to its end; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a program."""

    code: int
    output: str
    error: str


@dataclass(frozen=True, slots=True)
class User:
    """Who uses a file; with the uid 0 everything is allowed."""

    name: str
    uid: int
    gids: frozenset[int] = field(default_factory=frozenset)

    def may(self, found: os.stat_result, mode: int) -> bool:
        """Whether the user may use a file in all ways of a mode: 4 read, 2 write, 1 search."""
        if self.uid == 0:
            return True
        if found.st_uid == self.uid:
            bits = found.st_mode >> 6
        elif found.st_gid in self.gids:
            bits = found.st_mode >> 3
        else:
            bits = found.st_mode
        return bits & mode == mode


@dataclass(frozen=True)
class Machine:
    """A machine, by its files; all of this may block, and belongs in a thread."""

    root: Path = Path("/")

    def path(self, path: str | Path) -> Path:
        """Return where a path of the machine is."""
        return self.root / str(path).lstrip("/")

    def read(self, path: str | Path) -> str | None:
        """Return the text of a small file; None if it can't be read."""
        try:
            with self.path(path).open(encoding="utf-8", errors="replace") as file:
                return file.read(MOST_CHARS)
        except OSError:
            return None

    def line(self, path: str | Path) -> str | None:
        """Return the text of a file of the kernel's, which has one line; None if there is none."""
        text = self.read(path)
        return text.strip("\0\n ") or None if text else None

    def which(self, program: str) -> str | None:
        """Return the path of a program, also of one for root alone; None if it is not there."""
        places = os.pathsep.join(str(self.root / place) for place in BIN)
        if self.root == Path("/"):
            places = os.pathsep.join((os.environ.get("PATH", ""), places))
        return shutil.which(program, path=places)

    def run(self, program: str, *arguments: str, timeout_s: float = 2.5) -> Ran | None:
        """Run a program that only tells something; None if it is not there.

        Raises:
            ProgramError: it can't be run, or did not end in time.
        """
        path = self.which(program)
        if path is None:
            return None
        try:
            process = subprocess.Popen(
                [path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
                text=True,
                errors="replace",
            )
        except OSError as exc:
            raise ProgramError(f"{path} can't be run: {exc.strerror}") from exc
        with process:
            try:
                output, error = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                # One that hangs in the kernel can't be waited for.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(KILL_TIMEOUT_S)
                raise ProgramError(f"{program} did not end within {timeout_s:g} s") from None
        return Ran(process.returncode, output[-MOST_CHARS:], error)

    @cached_property
    def kernel(self) -> str:
        """The kernel's release."""
        return self.line("proc/sys/kernel/osrelease") or "unknown"

    @cached_property
    def has_systemd(self) -> bool:
        """Whether systemd runs it, by systemd's own rule (sd_booted(3))."""
        return self.path("run/systemd/system").is_dir()

    @cached_property
    def user(self) -> User:
        """Whom files must be open to: the service's user for root, if there is one, else us."""
        if os.geteuid() != 0:
            return User("this user", os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))
        return self.find_user(SERVICE_USER) or User("root", 0)

    @property
    def is_service(self) -> bool:
        """Whether files must be open to the service's user, and not to whoever runs this."""
        return self.user.name == SERVICE_USER

    def find_user(self, name: str) -> User | None:
        """Return an account of the machine; None if there is none of this name."""
        for line in (self.read("etc/passwd") or "").splitlines():
            fields = line.split(":")
            if len(fields) > 3 and fields[0] == name and (fields[2] + fields[3]).isdigit():
                return User(name, int(fields[2]), frozenset({int(fields[3]), *self._groups(name)}))
        return None

    def _groups(self, name: str) -> set[int]:
        lines = (line.split(":") for line in (self.read("etc/group") or "").splitlines())
        return {
            int(fields[2])
            for fields in lines
            if len(fields) > 3 and fields[2].isdigit() and name in fields[3].split(",")
        }
