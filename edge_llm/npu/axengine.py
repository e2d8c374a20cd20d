"""A Session over PyAXEngine: for AX650 boards, and as the simple way on the card.

It copies all inputs in and all outputs out with each run, the whole KV cache among them, so it is
slow where that is large; ``npu.card`` is the fast way. What it does unlike other libraries is made
up for here (AXERA-TECH/pyaxengine 0.1.3, ``_axclrt.py``, ``_session.py``).
"""

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llm.errors import ConfigurationError, DeviceError, ModelError
from edge_llm.npu.axcl_codes import error_in
from edge_llm.npu.session import TensorInfo

__all__ = ["AxEngineSession"]

MOST_GROUPS = 64


class AxEngineSession:
    """A ``Session`` over one ``.axmodel`` file.

    Args:
        path: the file.
        device: which card, counted from 0; of no meaning on a board.

    Raises:
        ConfigurationError: axengine is not installed, or finds no runtime.
        ModelError: the file can't be loaded.
    """

    def __init__(self, path: Path, *, device: int = 0) -> None:
        self._path = path
        axengine = _import_axengine()
        providers = axengine.get_available_providers()
        # Given as names, not as pairs: it ignores the options of those.
        options = [{"device_id": device} if "AXCL" in name else {} for name in providers]
        try:
            with _quiet():
                self._session = axengine.InferenceSession(
                    str(path), providers=list(providers), provider_options=options
                )
        except Exception as exc:
            raise ModelError(f"axengine can't load {path} ({exc}); copy it again") from exc
        self._inputs, self._outputs = [], []
        for group in range(MOST_GROUPS):
            # It does not say how many groups there are; one past the last is an IndexError.
            try:
                inputs, outputs = self._session.get_inputs(group), self._session.get_outputs(group)
            except (IndexError, ValueError):
                break
            self._inputs.append(_tensors(inputs))
            self._outputs.append(_tensors(outputs))

    @property
    def num_groups(self) -> int:
        """How many shape groups there are, at least 1."""
        return len(self._inputs)

    def inputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        """Return the inputs of a group by name."""
        return self._inputs[group]

    def outputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        """Return the outputs of a group by name."""
        return self._outputs[group]

    def run(self, feed: Mapping[str, NDArray[Any]], group: int = 0) -> dict[str, NDArray[Any]]:
        """Compute all outputs; blocks. ``feed`` has every input.

        Raises:
            DeviceError: the run failed.
        """
        # It copies the raw memory of whatever it is given, so the order must be C's.
        ordered = {name: np.ascontiguousarray(values) for name, values in feed.items()}
        try:
            with _quiet():
                values = self._session.run(None, ordered, shape_group=group)
        except RuntimeError as exc:
            raise error_in(f"{self._path.name}: {exc}") from exc
        except (AssertionError, ValueError) as exc:  # a wrong shape or type is an assertion
            raise DeviceError(f"{self._path.name}, shape group {group}: {exc}") from exc
        return dict(zip(self._outputs[group], values, strict=True))


def _tensors(nodes: list[Any]) -> Mapping[str, TensorInfo]:
    return MappingProxyType(
        {
            node.name: TensorInfo(
                node.name,
                tuple(int(size) for size in node.shape),
                _dtype(str(node.dtype)),
            )
            for node in nodes
        }
    )


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes  # comes with axengine

        name = ml_dtypes.bfloat16
    return np.dtype(name)


def _import_axengine() -> Any:
    try:
        with _quiet():
            import axengine
    except ImportError as exc:
        raise ConfigurationError(
            f"axengine can't be used ({exc}); install the wheel from "
            "https://github.com/AXERA-TECH/pyaxengine/releases and the runtime of the board or card"
        ) from exc
    return axengine


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Its ``[INFO]`` lines go to the log's stream, not to the output of a program."""
    return contextlib.redirect_stdout(sys.stderr)
