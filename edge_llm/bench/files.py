"""Reports in files."""

import os
from pathlib import Path

from pydantic import ValidationError

from edge_llm.bench.report import SCHEMA, Report
from edge_llm.errors import ConfigurationError

__all__ = ["check_can_save", "load_report", "save_report"]


def load_report(path: Path) -> Report:
    """Read a report that an earlier run has saved.

    Raises:
        ConfigurationError: there is none, or it is none, or it is of a version to come.
    """
    try:
        report = Report.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise ConfigurationError(f"{path} can't be read: {exc.strerror}") from exc
    except ValidationError as exc:
        raise ConfigurationError(
            f"{path} is no report of 'edge-llm bench --save': {exc.errors()[0]['msg']}"
        ) from exc
    if report.schema_version > SCHEMA:
        raise ConfigurationError(f"{path} was saved by a newer edge-llm, {report.version}")
    return report


def check_can_save(path: Path) -> None:
    """See that a report can be saved there, before one is made; takes minutes.

    Raises:
        ConfigurationError: it can't.
    """
    folder = path.parent
    is_writable = os.access(path, os.W_OK) if path.exists() else os.access(folder, os.W_OK)
    if path.is_dir() or not folder.is_dir() or not is_writable:
        raise ConfigurationError(f"{path} can't be written; name a file in a folder of yours")


def save_report(report: Report, path: Path) -> None:
    """Write a report; an earlier one there is replaced.

    Raises:
        ConfigurationError: it can't be written.
    """
    try:
        path.write_text(report.model_dump_json(indent=2) + "\n", "utf-8")
    except OSError as exc:
        raise ConfigurationError(f"{path} can't be written: {exc.strerror}") from exc
