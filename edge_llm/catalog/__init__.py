"""The models that are published for this card, and how one of them comes onto this machine."""

from edge_llm.catalog.fit import (
    Budget,
    answer_s,
    fits,
    meets,
    nearest,
    speed_class,
    tokens_within,
)
from edge_llm.catalog.published import (
    CMM_FREE_MIB,
    MODELS,
    PublishedModel,
    PublishedSpeed,
    find_model,
)

__all__ = [
    "CMM_FREE_MIB",
    "MODELS",
    "Budget",
    "PublishedModel",
    "PublishedSpeed",
    "answer_s",
    "find_model",
    "fits",
    "meets",
    "nearest",
    "speed_class",
    "tokens_within",
]
