"""A compiled graph with shape groups: the contract that every runtime keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Graph", "Session", "TensorInfo"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a graph, in one shape group."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Graph(Protocol):
    """What a model file takes and gives; shapes are fixed within a shape group.

    A model file has one or more groups over the same weights: group 0 takes one token (decode),
    the others take a chunk and a history of a set capacity (prefill).
    """

    @property
    def num_groups(self) -> int:
        """How many shape groups there are, at least 1."""
        ...

    def inputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        """Return the inputs of a group by name."""
        ...

    def outputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        """Return the outputs of a group by name."""
        ...


class Session(Graph, Protocol):
    """A graph that takes all its inputs from the host with each run, and keeps nothing."""

    def run(self, feed: Mapping[str, NDArray[Any]], group: int = 0) -> dict[str, NDArray[Any]]:
        """Compute all outputs; blocks. ``feed`` has every input, C-contiguous."""
        ...
