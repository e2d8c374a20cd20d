"""A Session over PyAXEngine: for AX650 boards, and as the simple way on the card.

It copies all inputs in and all outputs out with each run, the whole KV cache among them, so it is
slow where that is large; ``npu.card`` is the fast way. What it does unlike other libraries is made
up for here (AXERA-TECH/pyaxengine 0.1.3, ``_axclrt.py``, ``_session.py``).
"""

import contextlib
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llm.errors import ConfigurationError, DeviceError, DeviceLostError, ModelError
from edge_llm.npu.axcl_codes import error_in
from edge_llm.npu.session import TensorInfo

__all__ = ["AxEngineSession"]

MOST_GROUPS = 64


class AxEngineSession:
    """A ``Session`` over one ``.axmodel`` file.

    It stays on the device until the process ends: axengine keeps all of its sessions itself.

    Args:
        path: the file.
        device: which card, counted from 0; of no meaning on a board.

    Raises:
        ConfigurationError: axengine is not installed, or finds no runtime.
        ModelError: the file can't be loaded.
        DeviceError: there is no such card, or it has no memory left.
    """

    def __init__(self, path: Path, *, device: int = 0) -> None:
        self._path = path
        self._session = _open_session(path, device)
        self._inputs: list[Mapping[str, TensorInfo]] = []
        self._outputs: list[Mapping[str, TensorInfo]] = []
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
            DeviceError: the run failed; ``DeviceLostError`` if the card is lost by it.
        """
        # It copies the raw memory of whatever it is given, so the order must be C's.
        ordered = {name: np.ascontiguousarray(values) for name, values in feed.items()}
        try:
            with _quiet():
                values = self._session.run(None, ordered, shape_group=group)
        except RuntimeError as exc:
            raise _run_error(self._path, exc) from exc
        except (AssertionError, IndexError, ValueError) as exc:
            # The feed is wrong: shapes and types are assertions, groups and names the others.
            raise DeviceError(f"{self._path.name}, shape group {group}: {exc}") from exc
        return dict(zip(self._outputs[group], values, strict=True))


def _open_session(path: Path, device: int) -> Any:
    try:
        with _quiet():
            import axengine

            # The first is what it would take itself. As a name, not as a pair with its options,
            # which it ignores in that form.
            provider = axengine.get_available_providers()[0]
            options = {"device_id": device} if "AXCL" in provider else {}
            return axengine.InferenceSession(
                str(path), providers=[provider], provider_options=[options]
            )
    except ImportError as exc:  # its parts look for their libraries when they are first needed
        raise ConfigurationError(
            f"axengine can't be used ({exc}); install the wheel from "
            "https://github.com/AXERA-TECH/pyaxengine/releases and the runtime of the board or card"
        ) from exc
    except AttributeError as exc:  # its way of saying that axclrtEngineInit failed
        raise DeviceError(
            f"axengine can't start the NPU ({exc}); does another program use it?"
        ) from exc
    except (RuntimeError, ValueError, TypeError, OSError) as exc:
        raise _load_error(path, exc) from exc


def _load_error(path: Path, exc: Exception) -> DeviceError | ModelError:
    """Tell what is wrong with a file from what is wrong with the device."""
    text = _with_codes(str(exc))
    if isinstance(exc, RuntimeError) and not re.search("load|model", text, re.IGNORECASE):
        return error_in(f"axengine can't open {path.name}: {text}")
    return ModelError(
        f"axengine can't load {path} ({text}); copy it again, or if it is whole, check the device"
    )


def _run_error(path: Path, exc: RuntimeError) -> DeviceError:
    text = f"{path.name}: {_with_codes(str(exc))}"
    if "axclrt" in text and "0x" not in text:
        # It keeps the code of a failed copy or context to itself. What was right when the file was
        # loaded does not fail but with the card.
        return DeviceLostError(f"{text}; the card does not answer")
    return error_in(text)


def _with_codes(text: str) -> str:
    """Write codes as the vendor's documents do; to axengine they are signed (``_axclrt_capi.py``).

    So 0x8030070C is "0x-7fcff8f4" in most of its messages, and "-2144336116" in one.
    """

    def unsigned(match: re.Match[str]) -> str:
        code = int(match[1], 16) if match[1] else int(match[0])
        return f"0x{code & 0xFFFFFFFF:08x}"

    return re.sub(r"0x(-[0-9a-f]{1,8})\b|(?<!\w)-\d{9,10}\b", unsigned, text)


def _tensors(nodes: Iterable[Any]) -> Mapping[str, TensorInfo]:
    import ml_dtypes  # noqa: F401 - comes with axengine, and lets numpy know "bfloat16"

    return MappingProxyType(
        {
            node.name: TensorInfo(
                node.name, tuple(int(size) for size in node.shape), np.dtype(node.dtype)
            )
            for node in nodes
        }
    )


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Its ``[INFO]`` lines go to the log's stream, not to the output of a program."""
    return contextlib.redirect_stdout(sys.stderr)
