"""Reading the settings, and saying in words what is wrong with them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict, SettingsError

from edge_llm.errors import ConfigurationError
from edge_llm.section import Section
from edge_llm.settings.root import ENV_PREFIX, Settings

__all__ = [
    "describe",
    "load_settings",
    "refuse_unknown_variables",
]


def load_settings(path: Path | None = None, **overrides: object) -> Settings:
    """Read the settings once, at the start of the program.

    Args:
        path: a TOML file; must exist if it is given.
        overrides: what the command line says, section by section; wins over all else.

    Raises:
        ConfigurationError: names the file or variable, the key, and what is wrong with it.
    """
    refuse_unknown_variables(os.environ)
    try:
        if path is not None and not path.is_file():
            raise ConfigurationError(f"there is no settings file {path}")
        return _load(path, overrides)
    except OSError as exc:  # it is not ours to read
        raise ConfigurationError(f"can't read {path}: {exc.strerror}") from exc


def _load(path: Path | None, overrides: dict[str, object]) -> Settings:

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return FromFile(**overrides)  # type: ignore[arg-type]
    except ValidationError as exc:
        raise ConfigurationError(describe(exc)) from exc
    except SettingsError as exc:
        raise ConfigurationError(_describe_variables(exc)) from exc
    except ValueError as exc:  # tomllib's, whose message has line and column
        raise ConfigurationError(f"{path}: {exc}") from exc
    except RecursionError as exc:
        raise ConfigurationError(f"{path}: lists or tables are nested too deeply") from exc


def describe(exc: ValidationError) -> str:
    """Say in one line per mistake which key is wrong."""
    lines = []
    for error in exc.errors(include_url=False):
        key = ".".join(str(part) for part in error["loc"])
        text = "there is no such setting" if error["type"] == "extra_forbidden" else error["msg"]
        text = text.removeprefix("Value error, ")
        lines.append(f"{key}: {text}" if key else text)
    return "; ".join(lines)


def refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """Refuse ``EDGE_LLM_TYPO``, which pydantic-settings ignores at the top level.

    Raises:
        ConfigurationError: names the variable.
    """
    for name in environment:
        if name.upper().startswith(ENV_PREFIX):
            section, _, key = name.upper().removeprefix(ENV_PREFIX).partition("__")
            field = Settings.model_fields.get(section.lower())
            if field is None or (key and not _is_section(field.annotation)):
                known = ", ".join(Settings.model_fields)
                raise ConfigurationError(f"{name}: there is no such setting (there are: {known})")


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _describe_variables(exc: SettingsError) -> str:
    """Name the variables of the section in which pydantic-settings met something else than JSON."""
    section = re.search(r'field "(\w+)"', str(exc))
    prefix = ENV_PREFIX + (section[1].upper() if section else "")
    names = ", ".join(name for name in os.environ if name.upper().startswith(prefix))
    return f"{names}: a list or a whole section must be JSON in the environment, as in '[\"a\"]'"
