"""What crosses the card's bus: ``python -m edge_llm.bench.bus``, a process of its own.

A call of the vendor's can hang for 50 s and hold the interpreter, and it prints where it likes. So
it reads what to measure from the standard input, and its answer goes to what was the standard
output before anything was loaded. The worker must have given the card free before.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from edge_llm.bench.bus_order import BusAnswer, BusOrder
from edge_llm.bench.report import Bus
from edge_llm.errors import DeviceError, EdgeLLMError
from edge_llm.npu.axcl import DEVICE_TO_HOST, HOST_TO_DEVICE, Axcl, CardGraph
from edge_llm.npu.card import VARIANTS, CardStack
from edge_llm.npu.card_layer import Buffers

__all__ = ["measure_bus"]

NUM_TOKENS = 4
BLOCK_BYTES, NUM_BLOCKS = 4 * 2**20, 16
"""As large as the runtime's own buffer: larger copies are cut into these."""
SMALL_BYTES, NUM_SMALL = 4096, 100
COPIES = {"axclrtMemcpy", "axclrtMemcpyAsync"}


class _CountingAxcl(Axcl):
    """Counts the copies that others make through it, with their bytes in each direction."""

    def __init__(self, library: str, *, device_index: int) -> None:
        self.num_copies = 0
        self.num_bytes: dict[int, int] = {}
        super().__init__(library, device_index=device_index)

    def function(self, name: str) -> Any:
        checked = super().function(name)
        if name not in COPIES:
            return checked

        def counted(to: Any, source: Any, count: int, kind: int, *rest: Any) -> None:
            checked(to, source, count, kind, *rest)
            self.num_copies += 1
            self.num_bytes[kind] = self.num_bytes.get(kind, 0) + count

        return counted


def measure_bus(order: BusOrder) -> Bus:
    """Decode some tokens with one layer in the place of all, and time copies.

    Raises:
        ModelError: a graph can't be loaded.
        DeviceError: the card failed, or what came back from it is not what went there.
    """
    with _CountingAxcl(order.library, device_index=order.device) as axcl:
        firmware = axcl.memory().firmware
        up_s, down_s, small_s = _time_copies(axcl)
        num_copies, num_bytes = _count_token(axcl, order)
        return Bus(
            runtime=axcl.version,
            firmware=firmware,
            up_bytes_per_token=num_bytes.get(HOST_TO_DEVICE, 0) // NUM_TOKENS,
            down_bytes_per_token=num_bytes.get(DEVICE_TO_HOST, 0) // NUM_TOKENS,
            copies_per_token=num_copies // NUM_TOKENS,
            up_mb_per_s=BLOCK_BYTES / up_s / 1e6,
            down_mb_per_s=BLOCK_BYTES / down_s / 1e6,
            small_copy_ms=1e3 * small_s,
        )


def _time_copies(axcl: Axcl) -> tuple[float, float, float]:
    """Return the seconds of a block to the card, of one back, and of a small copy; medians."""
    copy = axcl.function("axclrtMemcpy")
    with contextlib.ExitStack() as opened:
        buffers = Buffers(axcl, opened)
        memory = buffers.card(BLOCK_BYTES)
        sent, back = (buffers.host((BLOCK_BYTES,), np.uint8) for _ in range(2))
        sent.values[:] = np.random.RandomState(0).randint(0, 256, BLOCK_BYTES)
        size = BLOCK_BYTES
        up_s = _time(lambda: copy(memory, sent.pointer, size, HOST_TO_DEVICE), NUM_BLOCKS)
        down_s = _time(lambda: copy(back.pointer, memory, size, DEVICE_TO_HOST), NUM_BLOCKS)
        if not np.array_equal(sent.values, back.values):
            raise DeviceError("what was copied to the card came back changed")
        size = SMALL_BYTES
        small_s = _time(lambda: copy(memory, sent.pointer, size, HOST_TO_DEVICE), NUM_SMALL)
    return up_s, down_s, small_s


def _time(call: Callable[[], None], count: int) -> float:
    """Return the median seconds of a call, after one that does not count."""
    call()
    times = [time.perf_counter()]
    for _ in range(count):
        call()
        times.append(time.perf_counter())
    return float(median(np.diff(times)))


def _count_token(axcl: _CountingAxcl, order: BusOrder) -> tuple[int, dict[int, int]]:
    """Return the copies, and the bytes by direction, of ``NUM_TOKENS`` tokens."""
    variant = next((one for one in VARIANTS if str(one) == order.variant), None)
    if variant is None:
        raise DeviceError(f"there is no way of driving the card called {order.variant!r}")
    layer, post = CardGraph(axcl, order.layer), CardGraph(axcl, order.post)
    stack = CardStack(axcl, [layer] * order.num_layers, post)
    try:
        stack.use(variant)
        hidden = np.ones((1, layer.inputs()["input"].shape[-1]), np.float32)
        for position in range(NUM_TOKENS + 1):
            if position == 1:  # the first one brings the whole mask
                axcl.num_copies, axcl.num_bytes = 0, {}
            stack.run(0, hidden, position, 0, logits=True)
        return axcl.num_copies, axcl.num_bytes
    finally:
        stack.close()


def main() -> None:
    """Read an order, carry it out, and answer in one line of JSON."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # vendor libraries print to stdout
        # Between two calls; whoever is killed in the middle of one may leave the card hanging.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        order = BusOrder.model_validate_json(sys.stdin.read())
        try:
            answered = BusAnswer(bus=measure_bus(order))
        except EdgeLLMError as exc:
            answered = BusAnswer(error=exc.message)
        answer.write(answered.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
