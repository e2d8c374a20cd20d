"""Which directory is the model's, and where models are."""

from pathlib import Path

from edge_llm.doctor.case import Case
from edge_llm.doctor.machine import Machine
from edge_llm.settings.models import SYSTEM_MODELS_DIR, default_models_dir, find_model_directory
from edge_llm.tiny import MODEL_DIR

__all__ = ["model_directory", "models_dir"]


def model_directory(case: Case) -> Path:
    """Return the directory of the model that is examined.

    Raises:
        ModelError: there is no downloaded model of that name.
    """
    model = case.model or case.settings.engine.worker.model
    return MODEL_DIR if model is None else find_model_directory(model, models_dir(case))


def models_dir(case: Case) -> Path:
    """Return where downloaded models are."""
    if given := case.settings.engine.worker.models_dir:
        return given
    here = case.machine == Machine()
    return default_models_dir() if here else case.machine.path(SYSTEM_MODELS_DIR)
