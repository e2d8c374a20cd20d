"""Where models are on this machine, and which directory a name means.

A model is named by its directory, or by the name that ``edge-llm model get`` gave it. A download
that is not finished has a directory beside, whose name begins with a dot, so no name means it.
"""

import os
import re
from pathlib import Path

from edge_llm.errors import ModelError

__all__ = [
    "SYSTEM_MODELS_DIR",
    "default_models_dir",
    "find_model_directory",
    "is_model_name",
    "partial_directory",
]

SYSTEM_MODELS_DIR = Path("/var/lib/edge-llm/models")
"""Where an installed service has them; ``systemd/install.sh`` makes it."""


def default_models_dir() -> Path:
    """Return where models are if the settings don't say: the service's place, or the user's."""
    if SYSTEM_MODELS_DIR.is_dir() and os.access(SYSTEM_MODELS_DIR, os.R_OK | os.X_OK):
        return SYSTEM_MODELS_DIR
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "edge-llm" / "models"


def is_model_name(text: str) -> bool:
    """Tell whether a text is a plain name, which can stand for a directory of a model."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", text) is not None


def partial_directory(models_dir: Path, name: str) -> Path:
    """Return where a download is until all of it is there and checked."""
    return models_dir / f".{name}.partial"


def find_model_directory(model: Path, models_dir: Path | None = None) -> Path:
    """Return the directory that is meant.

    Args:
        model: a directory; or a name, which is looked for in the working directory and then among
            the downloaded ones.
        models_dir: where those are; ``default_models_dir()`` if None.

    Raises:
        ModelError: it is a name, and there is no such directory; says how to get it.
    """
    name = str(model)
    if not is_model_name(name) or model.is_dir():
        return model
    models_dir = models_dir or default_models_dir()
    directory = models_dir / name
    if directory.is_dir():
        return directory
    if partial_directory(models_dir, name).is_dir():
        raise ModelError(
            f"the download of {name} is not finished; go on with it: edge-llm model get {name}"
        )
    raise ModelError(
        f"there is no model {name}, neither here nor in {models_dir}; get it with "
        f"'edge-llm model get {name}', or see 'edge-llm model list'"
    )
