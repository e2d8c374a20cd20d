"""Token ids to logits: chunked prefill, decode, and the prefixes that stay in the KV caches.

Row n of a slot's cache belongs to the token at position n, and ``cached_ids`` says which tokens
the rows hold. A new prompt keeps the rows of the longest prefix that it shares with them, to the
token; the last token of a prompt is always computed, because its logits are needed. A row counts
only when all layers have stored it, so a run that was given up, or that failed half way, leaves
nothing behind but rows that will be written again. Which slot a prompt gets: see ``engine.slots``.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_llm.engine.model import EmbeddingTable, Geometry
from edge_llm.engine.slots import Slot, Slots
from edge_llm.npu.stack import Stack

__all__ = ["ModelRunner"]

NUM_MEASURED = 3  # runs of a kind: the first one may have to make its buffers


class ModelRunner:
    """Runs a stack for one conversation after another.

    Args:
        stack: layers, post graph and caches.
        embedding: token ids to ``(n, hidden)`` rows.
        geometry: as read from the graphs.
    """

    def __init__(self, stack: Stack, embedding: EmbeddingTable, geometry: Geometry) -> None:
        self.geometry = geometry
        self._stack, self._embedding = stack, embedding
        self._slots = Slots(stack.num_slots)
        self._slot = self._slots.choose(())
        self._run_s: dict[int, float] = {}  # seconds of a run, by its chunk length

    @property
    def cached_ids(self) -> list[int]:
        """The tokens whose rows the slot in use holds."""
        return self._slot.cached_ids

    def shared_prefix_len(self, token_ids: Sequence[int]) -> int:
        """Return how many tokens of a prompt need not be computed again."""
        return self._slots.choose(token_ids).shared_prefix_len(token_ids)

    def prefill(
        self, token_ids: Sequence[int], *, in_place: bool = False
    ) -> Iterator[NDArray[np.float32] | None]:
        """Compute a prompt, chunk by chunk; stop iterating to give it up.

        Args:
            token_ids: the prompt.
            in_place: in the slot of the prompt before, whatever that loses.

        Yields:
            None after each chunk but the last; the logits ``(vocab,)`` of the last token then,
            valid until the next run.
        """
        slot = self._slot if in_place else self._slots.choose(token_ids)
        self._slots.use(slot)
        self._slot = slot
        yield from self._compute(token_ids, slot)

    def prepare(self, beginnings: Sequence[Sequence[int]]) -> Iterator[None]:
        """Make beginnings of prompts ready, chunk by chunk; stop iterating to give it up.

        As many as have a place: each lies in a slot of its own, and neither takes that of another
        one nor that of the newest conversation.

        Args:
            beginnings: those wanted most go first.
        """
        for token_ids in self._slots.want(beginnings):
            if slot := self._slots.choose_for_beginning(token_ids):
                slot.last_used, slot.is_ready = 0, False
                for _ in self._compute(token_ids, slot):
                    slot.is_ready = slot.cached_ids == token_ids
                    yield

    def forget_conversations(self) -> None:
        """Take all slots for free; their rows may still be shared."""
        self._slots.forget_conversations()

    def _compute(
        self, token_ids: Sequence[int], slot: Slot
    ) -> Iterator[NDArray[np.float32] | None]:
        start = slot.shared_prefix_len(token_ids)
        while start < len(token_ids):
            group, num_tokens = self._choose_group(start, len(token_ids) - start)
            stop = start + num_tokens
            yield self._run(
                token_ids[start:stop], start, group, slot, logits=stop == len(token_ids)
            )
            start = stop

    def decode(self, token_id: int) -> NDArray[np.float32]:
        """Compute one more token; return the logits ``(vocab,)``, valid until the next run."""
        logits = self._run([token_id], len(self._slot.cached_ids), 0, self._slot, logits=True)
        assert logits is not None
        return logits

    def extend(self, token_ids: Sequence[int]) -> Iterator[NDArray[np.float32] | None]:
        """Compute more tokens, in the way that costs least; as ``prefill`` yields, it yields."""
        slot = self._slot
        while token_ids:
            start = len(slot.cached_ids)
            group, num_tokens = self._choose_way(start, len(token_ids))
            rest = token_ids[num_tokens:]
            yield self._run(token_ids[:num_tokens], start, group, slot, logits=not rest)
            token_ids = rest

    def measure(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Find out what a run of each chunk length costs; once, so that the ways stay the same."""
        slot = self._slots.choose(())
        # Of groups of the same length the one with the longest history costs most.
        by_history = sorted(
            (history_len, chunk_len, group)
            for group, (chunk_len, history_len) in enumerate(self.geometry.groups)
        )
        for chunk_len, group in {length: group for _, length, group in by_history}.items():
            num_tokens = min(chunk_len, self.geometry.history_len)
            times = []
            for _ in range(NUM_MEASURED):
                begin = clock()
                self._run([0] * num_tokens, 0, group, slot, logits=True)
                times.append(clock() - begin)
            self._run_s[chunk_len] = min(times)
        slot.cached_ids.clear()

    def probe(self) -> None:
        """Compute a token behind the rows in use, and forget it: does the device still compute?"""
        num_rows = len(self._slot.cached_ids)
        start = min(num_rows, self.geometry.groups[0][1])
        self._run([0], start, 0, self._slot, logits=True)
        del self._slot.cached_ids[start:]

    def close(self) -> None:
        """Give back what the device holds."""
        self._stack.close()

    def _choose_group(self, start: int, num_tokens: int) -> tuple[int, int]:
        """Return the shape group for the next tokens, and how many of them it takes.

        The longest chunk while it can be filled; for the rest the length that costs least with
        its padding. Of the groups of that length the one with the smallest history that reaches
        back to the beginning. Group 0 always qualifies.
        """
        able = self._able_groups(start)
        chunk_len = max(able)
        if num_tokens < chunk_len:
            chunk_len = min(able, key=lambda length: (self._cost(num_tokens, length), -length))
        return able[chunk_len], min(num_tokens, chunk_len)

    def _choose_way(self, start: int, num_tokens: int) -> tuple[int, int]:
        """Return the shape group for tokens after a prompt, and how many of them it takes.

        They are few, and what a run costs has been measured: on the card a chunk of 128 may cost
        as much as three steps, on a slow CPU as much as a hundred.
        """
        able = self._able_groups(start)
        chunk_len = min(able, key=lambda length: (self._run_cost(num_tokens, length), length))
        return able[chunk_len], min(num_tokens, chunk_len)

    def _able_groups(self, start: int) -> dict[int, int]:
        """Return by chunk length the group with the smallest history that reaches back enough."""
        able: dict[int, tuple[int, int]] = {}
        for group, (chunk_len, history_len) in enumerate(self.geometry.groups):
            if history_len >= start:
                able[chunk_len] = min(
                    able.get(chunk_len, (history_len, group)), (history_len, group)
                )
        return {chunk_len: group for chunk_len, (_, group) in able.items()}

    def _run_cost(self, num_tokens: int, chunk_len: int) -> float:
        """Return what so many tokens cost in chunks of this length: seconds, once measured."""
        if chunk_len in self._run_s:
            return -(-num_tokens // chunk_len) * self._run_s[chunk_len]
        return self._cost(num_tokens, chunk_len)

    def _cost(self, num_tokens: int, chunk_len: int) -> int:
        """Return what so many tokens cost in chunks of this length, counted in tokens."""
        num_chunks = -(-num_tokens // chunk_len)
        return num_chunks * (chunk_len + self._stack.call_cost_tokens)

    def _run(
        self, token_ids: Sequence[int], start: int, group: int, slot: Slot, *, logits: bool
    ) -> NDArray[np.float32] | None:
        del slot.cached_ids[start:]
        hidden = self._embedding.rows(token_ids)
        result = self._stack.run(slot.index, hidden, start, group, logits=logits)
        slot.cached_ids.extend(token_ids)
        return result
