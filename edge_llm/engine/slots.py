"""Which KV slot a prompt gets, and which beginnings of prompts stay at hand.

A prompt takes the slot in which it keeps the most and overwrites the least. Where it would
overwrite more than it keeps in any of them, a free slot takes its place; else one whose
conversation is not the newest: of those that share about as much with it as any, the one that was
used least recently.

A beginning that is kept ready lies alone in a slot, so that a prompt which goes on from it
overwrites nothing. One slot is left to the newest conversation, so there may be one beginning less
than there are slots; the first ones win.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Slot", "Slots"]


@dataclass(slots=True, eq=False)
class Slot:
    """What the rows of one of the stack's slots belong to."""

    index: int
    cached_ids: list[int] = field(default_factory=list)
    last_used: int = 0
    """When a request used it; 0 while it holds no conversation."""
    is_ready: bool = False
    """It holds a beginning that is kept ready, and nothing else."""

    def shared_prefix_len(self, token_ids: Sequence[int]) -> int:
        """Count the rows that a prompt can keep; its last token is always computed."""
        longest = max(min(len(self.cached_ids), len(token_ids) - 1), 0)
        return next((n for n in range(longest) if self.cached_ids[n] != token_ids[n]), longest)

    def gain(self, token_ids: Sequence[int]) -> int:
        """Count the rows that a prompt would keep, less those that it would overwrite."""
        return 2 * self.shared_prefix_len(token_ids) - len(self.cached_ids)


class Slots:
    """The slots of one stack."""

    def __init__(self, num_slots: int) -> None:
        self._slots = [Slot(index) for index in range(num_slots)]
        self._num_uses = 0
        self._wanted: list[list[int]] = []

    def choose(self, token_ids: Sequence[int]) -> Slot:
        """Return the slot for a prompt; nothing changes by that."""
        best = max(self._slots, key=lambda slot: (slot.gain(token_ids), -slot.last_used))
        if best.gain(token_ids) >= 0:
            return best
        others = [slot for slot in self._slots if slot is not self._newest] or self._slots
        others = [slot for slot in others if not slot.is_ready] or others
        shared = {slot.index: slot.shared_prefix_len(token_ids) for slot in others}
        enough = max(shared.values()) / 2
        return min(
            (slot for slot in others if shared[slot.index] >= enough),
            key=lambda slot: slot.last_used,
        )

    def use(self, slot: Slot) -> None:
        """Note that a conversation goes on in this slot."""
        self._num_uses += 1
        slot.last_used = self._num_uses
        slot.is_ready = False

    def want(self, beginnings: Sequence[Sequence[int]]) -> list[list[int]]:
        """Note which beginnings are to be ready; return those that have a place."""
        unique = dict.fromkeys(map(tuple, beginnings))
        self._wanted = [list(ids) for ids in unique][: max(len(self._slots) - 1, 1)]
        for slot in self._slots:
            slot.is_ready = slot.is_ready and slot.cached_ids in self._wanted
        return self._wanted

    def choose_for_beginning(self, token_ids: Sequence[int]) -> Slot | None:
        """Return the slot in which to make a beginning ready; none if it is, or has no place."""
        if any(slot.is_ready and slot.cached_ids == token_ids for slot in self._slots):
            return None
        able = [slot for slot in self._slots if slot is not self._newest and not slot.is_ready]
        return min(
            able,
            key=lambda slot: (slot.last_used, -slot.shared_prefix_len(token_ids)),
            default=None,
        )

    def forget_conversations(self) -> None:
        """Take all slots for free; their rows may still be shared."""
        for slot in self._slots:
            slot.last_used = 0

    @property
    def _newest(self) -> Slot | None:
        """The slot of the newest conversation."""
        slot = max(self._slots, key=lambda slot: slot.last_used)
        return slot if slot.last_used else None
