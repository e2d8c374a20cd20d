"""Fetches the files of a model into a directory that becomes visible when all of it is right.

Until then they are beside it, in ``.NAME.partial``: finished files under their own names, the one
in hand with ``.part`` behind, so that a download that was stopped (Ctrl-C, a power cut, a network
that went away) goes on where it was, within a file too. A file counts as finished when its length
and checksum are those that the hub tells. The last step is the renaming of the directory.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_llm.catalog import hub
from edge_llm.catalog.checksum import is_right, wanted_checksum
from edge_llm.catalog.layout import Repository, WantedFile
from edge_llm.catalog.listing import size
from edge_llm.catalog.shelf import RECORD, Record, old_directory
from edge_llm.errors import ConfigurationError, ModelError
from edge_llm.settings.models import partial_directory

__all__ = ["Plan", "Progress", "download", "make_plan"]

VERIFIED = ".verified.json"
SPARE_BYTES = 64 << 20
"""What stays free on the disk: logs and the node's store must go on."""
MOST_TRIES = 2  # a part that was there may be wrong, from a disk that lost power; all of it is not


class Progress(Protocol):
    """What is told while it goes on."""

    def file(self, number: int, name: str, size_bytes: int) -> None:
        """A file is begun; ``number`` counts from 1."""

    def advance(self, num_bytes: int) -> None:
        """So many bytes have arrived, or were thrown away if it is negative."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        repository: what is fetched, and of which commit.
        files: which of its files, and where they go.
        target: the directory that is made.
        total_bytes: of all files.
        have_bytes: what an earlier run has fetched of them.
        free_bytes: on the disk.
    """

    repository: Repository
    files: Sequence[WantedFile]
    target: Path
    total_bytes: int
    have_bytes: int
    free_bytes: int

    @property
    def missing_bytes(self) -> int:
        """What is still to be fetched."""
        return self.total_bytes - self.have_bytes


def make_plan(repository: Repository, files: Sequence[WantedFile], target: Path) -> Plan:
    """See what is there, and whether the rest has room on the disk.

    Raises:
        ConfigurationError: it has not, or the directory can't be made; says what to do.
    """
    with _disk_in_words(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(target.parent).free
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigurationError(_not_ours(target))
    partial = partial_directory(target.parent, target.name)
    plan = Plan(
        repository=repository,
        files=files,
        target=target,
        total_bytes=sum(file.remote.size_bytes for file in files),
        have_bytes=sum(_have_bytes(partial, file) for file in files),
        free_bytes=free_bytes,
    )
    if plan.missing_bytes + SPARE_BYTES > free_bytes:
        raise ConfigurationError(
            f"{target.name} needs {size(plan.missing_bytes)} on the disk and {size(SPARE_BYTES)} "
            f"to spare, but {target.parent} has {size(free_bytes)} free; remove something "
            "('edge-llm model list' shows what is here), or choose another disk with --dir"
        )
    return plan


def download(plan: Plan, progress: Progress, check: Callable[[Path], None]) -> Path:
    """Fetch what is missing, and make the model's directory of it. Blocks, for minutes or hours.

    Args:
        plan: what to do.
        progress: is told of it.
        check: looks at the directory before it becomes visible, and raises if it is no model.

    Raises:
        ModelError: a file is not what the hub says, or ``check`` complains.
        UnavailableError: the hub can't be reached; what has arrived is kept.
        ConfigurationError: the disk can't be written, or another download of it goes on.
    """
    target, repository = plan.target, plan.repository
    partial = partial_directory(target.parent, target.name)
    with _disk_in_words(target):
        partial.mkdir(exist_ok=True)
        with _alone(partial):
            verified = _read_verified(partial)
            _remove_others(partial, plan.files)
            for number, file in enumerate(plan.files, 1):
                progress.file(number, file.place, file.remote.size_bytes)
                _get_file(repository, file, partial, verified, progress)
            check(partial)
            record = Record(repository.repo, repository.revision, plan.total_bytes)
            (partial / RECORD).write_text(record.to_json())
            (partial / VERIFIED).unlink()
            _hand_over(partial, target.parent)
            _put_in_place(partial, target)
    return target


def _get_file(
    repository: Repository,
    file: WantedFile,
    partial: Path,
    verified: dict[str, str],
    progress: Progress,
) -> None:
    final, checksum = partial / file.place, wanted_checksum(file.remote)
    if final.is_file() and (verified.get(file.place) == checksum or is_right(final, file.remote)):
        return
    final.unlink(missing_ok=True)
    final.parent.mkdir(exist_ok=True)
    part = _part(partial, file)
    for _ in range(MOST_TRIES):
        with part.open("ab") as opened:
            hub.fetch(repository, file.remote, opened, progress.advance)
            opened.flush()
            os.fsync(opened.fileno())
        if is_right(part, file.remote):
            part.rename(final)
            verified[file.place] = checksum
            _write(partial / VERIFIED, json.dumps(verified))
            return
        progress.advance(-part.stat().st_size)
        part.unlink()
    raise ModelError(
        f"{file.remote.path} of {repository.repo} has another checksum than the hub tells, twice: "
        "something on the way changes it (a proxy, bad memory, a bad disk). The rest is kept; run "
        "the same command again"
    )


def _part(partial: Path, file: WantedFile) -> Path:
    """A part of another version of the file has another name, so it is never gone on with."""
    return partial / f"{file.place}.{wanted_checksum(file.remote)[:12] or 'unknown'}.part"


def _have_bytes(partial: Path, file: WantedFile) -> int:
    for path in (partial / file.place, _part(partial, file)):
        if path.is_file():
            return min(path.stat().st_size, file.remote.size_bytes)
    return 0


def _remove_others(partial: Path, files: Sequence[WantedFile]) -> None:
    """Remove what an earlier run left of another commit."""
    known = {partial / VERIFIED, *(partial / file.place for file in files)}
    known |= {_part(partial, file) for file in files}
    for path in list(partial.rglob("*")):
        if path.is_file() and path not in known:
            path.unlink()


def _put_in_place(partial: Path, target: Path) -> None:
    """Two renamings if there is an older one: between them a start of the service would fail."""
    old = old_directory(target.parent, target.name)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _hand_over(partial: Path, models_dir: Path) -> None:
    """Give what root has fetched to the user whose directory it is: the service's."""
    if os.geteuid() == 0 and (owner := models_dir.stat()).st_uid != 0:
        for path in (partial, *partial.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)


def _read_verified(partial: Path) -> dict[str, str]:
    try:
        found = json.loads((partial / VERIFIED).read_text())
    except (OSError, ValueError):
        found = {}
    verified = found if isinstance(found, Mapping) else {}
    return {str(place): str(checksum) for place, checksum in verified.items()}


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Keep a second download of the same model out."""
    number = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"{partial.parent} is being written to by another 'edge-llm model get'"
            ) from None
        yield
    finally:
        os.close(number)


@contextmanager
def _disk_in_words(target: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as exc:
        raise ConfigurationError(_not_ours(target)) from exc
    except OSError as exc:
        raise ConfigurationError(
            f"can't write {exc.filename or target}: {exc.strerror}; what has arrived is kept"
        ) from exc


def _not_ours(target: Path) -> str:
    return (
        f"{target.parent} may not be written to by this user; run it as the service's "
        f"('sudo -u edge-llm edge-llm model get {target.name}'), or choose another place with --dir"
    )
