"""What is measured: an engine's model, what runs it, and the device that it needs for itself."""

from dataclasses import dataclass

from edge_llm.bench.bus_order import BusOrder
from edge_llm.bench.holders import find_holders
from edge_llm.bench.report import Model
from edge_llm.device.reading import CardsReading
from edge_llm.engine.model import ModelDirectory
from edge_llm.engine.stacks import choose_runtime
from edge_llm.errors import DeviceError
from edge_llm.npu.axcl import find_axcl
from edge_llm.npu.card import VARIANTS
from edge_llm.protocol import ModelInfo
from edge_llm.settings import EngineSettings
from edge_llm.tiny import MODEL_DIR

__all__ = ["Target", "open_target"]


@dataclass(frozen=True, slots=True)
class Target:
    """An engine, before it is opened.

    Attributes:
        settings: of the engine.
        directory: of its model; None where another program has the model.
        runtime: what will run it, in a word.
    """

    settings: EngineSettings
    directory: ModelDirectory | None
    runtime: str

    @property
    def device(self) -> int | None:
        """Which card it needs; None if it needs none."""
        return self.settings.worker.device if self.runtime in ("axcl", "axengine") else None

    def refuse_if_in_use(self, cards: CardsReading | None) -> None:
        """See that nobody else has the card.

        Args:
            cards: what the vendor's tool said, if it is there.

        Raises:
            DeviceError: somebody has it.
        """
        if self.device is None:
            return
        library = self.settings.worker.axcl_library
        if holders := find_holders(library, self.device, cards):
            who = ", ".join(str(holder) for holder in holders)
            raise DeviceError(
                f"the card is in use by {who}; the benchmark needs it alone: stop the service "
                "first, with 'systemctl stop edge-llm', and start it again afterwards"
            )

    def model(self, info: ModelInfo) -> Model:
        """Return what is known of the model once it is loaded."""
        directory = self.directory
        return Model(
            name=info.id,
            runtime=info.runtime,
            quantization=info.quantization,
            context_len=info.context_len,
            vocab_size=info.vocab_size,
            num_layers=len(directory.layers) if directory else None,
            embedding_bytes=directory.embedding.stat().st_size if directory else None,
        )

    def bus_order(self, info: ModelInfo) -> BusOrder | str:
        """Return how to measure the bus, or why there is nothing to measure."""
        library = find_axcl(self.settings.worker.axcl_library)
        variant = next((str(one) for one in VARIANTS if str(one) in (info.runtime or "")), None)
        if self.directory is None or self.runtime == "onnx":
            return "not applicable: nothing crosses a bus to a card"
        if self.runtime != "axcl" or library is None or variant is None:
            return f"not measured: {self.runtime} moves its data by itself"
        return BusOrder(
            library=library,
            device=self.settings.worker.device,
            layer=self.directory.layers[0],
            post=self.directory.post,
            num_layers=len(self.directory.layers),
            variant=variant,
        )


def open_target(settings: EngineSettings) -> Target:
    """Find out what these settings would run, and by what.

    Raises:
        ModelError: the model directory can't be used.
        ConfigurationError: nothing that is installed can run it.
    """
    if settings.kind != "worker":
        return Target(settings, None, settings.kind)
    directory = ModelDirectory(settings.worker.model_directory() or MODEL_DIR)
    runtime, _ = choose_runtime(directory, settings.worker)
    return Target(settings, directory, runtime)
