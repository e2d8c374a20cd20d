"""A stack on the virtual card, for tests and benchmarks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llm.engine.generation import ModelRunner
from edge_llm.engine.model import EmbeddingTable, Geometry, ModelDirectory
from edge_llm.npu.axcl import Axcl, CardGraph
from edge_llm.npu.card import CardStack, Variant
from edge_llm.tiny import MODEL_DIR
from tests.virtual_ax650.build import Variant as Library
from tests.virtual_ax650.card import Card, open_card
from tests.virtual_ax650.pack import pack

__all__ = ["CardModel", "open_model", "pack_built_in"]


def pack_built_in(folder: Path) -> Path:
    """Make the built-in model what it would be on a card."""
    return pack(MODEL_DIR, folder, last_n=1023, ladder=(1, 128, 256, 512, 895))


@dataclass(frozen=True)
class CardModel:
    """A model on the virtual card, and the card."""

    card: Card
    stack: CardStack
    geometry: Geometry
    embedding: EmbeddingTable

    def runner(self) -> ModelRunner:
        return ModelRunner(self.stack, self.embedding, self.geometry)


@contextmanager
def open_model(
    path: Path,
    *,
    variant: Variant | None = None,
    num_slots: int = 1,
    sync_timeout_s: float = 30.0,
    library: Library = "full",
    **switches: Any,
) -> Iterator[CardModel]:
    """Load a packed model; everything is given back at the end."""
    with open_card(library, **switches) as card:
        axcl = Axcl(str(card.path))
        directory = ModelDirectory(path)
        layers = [CardGraph(axcl, file) for file in directory.layers]
        post = CardGraph(axcl, directory.post)
        geometry = directory.read_geometry(layers, post)
        stack = CardStack(axcl, layers, post, num_slots=num_slots, sync_timeout_s=sync_timeout_s)
        try:
            if variant:
                stack.use(variant)
            yield CardModel(card, stack, geometry, directory.open_embedding(geometry))
        finally:
            stack.close()
