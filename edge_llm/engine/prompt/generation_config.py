"""A model's own ``generation_config.json``, as far as it says how to sample and where to end."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_llm.errors import ModelError

__all__ = ["read_generation_config"]

TokenId = Annotated[int, Field(ge=0, strict=True)]


class _GenerationConfig(BaseModel):
    """The fields that count here; there are many others."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    eos_token_id: TokenId | list[TokenId] | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None


def read_generation_config(directory: Path) -> dict[str, Any]:
    """Return the fields that a model has a value for; it lies in the tokenizer folder, or above.

    Raises:
        ModelError: names the file and the field that can't be used.
    """
    for folder in (directory, directory.parent):
        file = folder / "generation_config.json"
        if file.is_file() and file.stat().st_size:
            try:
                config = _GenerationConfig.model_validate_json(file.read_bytes())
            except ValidationError as exc:
                raise ModelError(f"{file}: {_first(exc)}; copy it again") from exc
            return config.model_dump(exclude_none=True)
    return {}


def _first(exc: ValidationError) -> str:
    error = exc.errors(include_url=False, include_context=False)[0]
    match error["type"]:
        case "json_invalid":
            return f"not JSON ({error['msg'].removeprefix('Invalid JSON: ')})"
        case "model_type":
            return "not a JSON object"
    return f"{error['loc'][0]}: {error['msg']}"
