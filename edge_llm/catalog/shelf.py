"""The models that are on this machine, finished or not."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_llm.errors import ConfigurationError, ModelError
from edge_llm.settings.models import is_model_name, partial_directory

__all__ = ["RECORD", "LocalModel", "Record", "list_local", "old_directory", "remove", "tidy"]

RECORD = "edge-llm-download.json"
"""Where a model came from; lies beside its files."""


@dataclass(frozen=True, slots=True)
class Record:
    """Where a model came from."""

    repo: str
    revision: str
    size_bytes: int

    def to_json(self) -> str:
        """Return it as it is kept."""
        return json.dumps(asdict(self), indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this machine.

    Attributes:
        name: of its directory.
        path: its directory, or that of the unfinished download.
        size_bytes: on the disk.
        is_finished: it can be served.
        record: where it came from; None if somebody put it there.
    """

    name: str
    path: Path
    size_bytes: int
    is_finished: bool
    record: Record | None


def list_local(models_dir: Path) -> list[LocalModel]:
    """Return the models below a directory, by name; none if it does not exist.

    A model that is there and is being fetched anew counts as finished.
    """
    found: dict[str, LocalModel] = {}
    if not models_dir.is_dir():
        return []
    for path in sorted(models_dir.iterdir()):
        name = path.name.removeprefix(".").removesuffix(".partial")
        is_finished = is_model_name(path.name)
        is_model = is_finished or path == partial_directory(models_dir, name)
        if is_model and path.is_dir() and (is_finished or name not in found):
            found[name] = LocalModel(name, path, _size_of(path), is_finished, read_record(path))
    return sorted(found.values(), key=lambda model: model.name)


def read_record(path: Path) -> Record | None:
    """Return where the model of a directory came from, if it was downloaded."""
    try:
        kept = json.loads((path / RECORD).read_text())
        return Record(str(kept["repo"]), str(kept["revision"]), int(kept["size_bytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove(models_dir: Path, name: str) -> int:
    """Remove a model, and what is there of an unfinished download; return the bytes it had.

    Raises:
        ModelError: there is none of that name.
        ConfigurationError: it may not be removed by this user.
    """
    directories = (models_dir / name, partial_directory(models_dir, name))
    found = [path for path in directories if is_model_name(name) and path.is_dir()]
    if not found:
        raise ModelError(f"there is no model {name} in {models_dir}; see 'edge-llm model list'")
    freed = sum(_size_of(path) for path in found)
    try:
        for path in found:
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path)
    except OSError as exc:
        raise ConfigurationError(f"can't remove {exc.filename}: {exc.strerror}") from exc
    return freed


def old_directory(models_dir: Path, name: str) -> Path:
    """Return where a model is while a newer one takes its place."""
    return models_dir / f".{name}.old"


def tidy(models_dir: Path, name: str) -> None:
    """Put right what a power cut in the middle of a replacement left."""
    old, target = old_directory(models_dir, name), models_dir / name
    if old.is_dir():
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)


def _size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
