"""Ollama's ``options``: what they are called there, and what the engine makes of them."""

from typing import Annotated, Any

import structlog
from pydantic import ConfigDict, Field, field_validator

from edge_llm.protocol import AnswerOptions, ModelInfo

__all__ = ["OllamaOptions"]

log = structlog.get_logger()

WHOLE_NUMBERS = ("num_ctx", "num_predict", "top_k", "repeat_last_n", "seed", "max_tokens")
AT_RANDOM = -1  # as a seed

MOST_TOKENS = 1_000_000  # that a request may ask for; the engine stops where the context ends


class OllamaOptions(AnswerOptions):
    """How to answer: Ollama's names, and the node's own.

    Others are ignored, as Ollama does: they are about hardware (``num_gpu``, ``num_thread``) or
    about ways of sampling that there are not (``mirostat``, ``typical_p``, ``tfs_z``).
    """

    model_config = ConfigDict(
        extra="allow",  # to name in the log what is ignored
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    num_predict: Annotated[int, Field(ge=-2)] | None = None
    """Most tokens to generate; -1, -2 and 0 mean as many as the context has room for. The node's
    default otherwise."""
    num_ctx: Annotated[int, Field(ge=0)] | None = None
    """Ignored: the context is as long as the model was built for; ``/api/show`` says how long."""
    top_k: int | None = None
    """Sample from this many of the likeliest tokens; 0 and less mean all."""
    max_bytes: None = None

    @field_validator(*WHOLE_NUMBERS, mode="before")
    @classmethod
    def _whole(cls, value: object) -> object:
        # Home Assistant, among others, sends all numbers as floats.
        return int(value) if isinstance(value, float) and value.is_integer() else value

    @field_validator("top_k")
    @classmethod
    def _all_if_negative(cls, value: int | None) -> int | None:
        return value and max(value, 0)

    def answer_fields(self, model: ModelInfo | None) -> dict[str, Any]:
        """Return these as fields of a ``ChatRequest``.

        Args:
            model: that answers; none while it loads.
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in AnswerOptions.model_fields}
        if self.num_predict is not None:
            most = model.context_len if model else MOST_TOKENS
            fields["max_tokens"] = self.num_predict if self.num_predict > 0 else most
        if self.seed == AT_RANDOM:
            fields["seed"] = None
        self._log_ignored(model)
        return fields

    def _log_ignored(self, model: ModelInfo | None) -> None:
        if self.model_extra:
            log.debug("request.options_ignored", options=sorted(self.model_extra))
        if self.num_ctx and model and self.num_ctx > model.context_len:
            log.debug("request.context_is_shorter", num_ctx=self.num_ctx, is_len=model.context_len)
