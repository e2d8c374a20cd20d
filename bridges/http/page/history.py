"""The last hour: readings as they were taken, states as they changed, faults and what was done.

Nothing is sampled here: a reading is noted when the monitor takes it, each 10 to 30 s.
"""

from typing import Literal

from bridges.http.page.ring import Ring
from bridges.http.page.status import Mark, Sample, Span
from edge_llm.protocol import NodeHealth

__all__ = ["SPAN_S", "History", "word_of"]

SPAN_S = 3600.0
MAX_SAMPLES = 361
"""An hour of readings at the shortest interval, and one more for both ends."""
MAX_SPANS = 240
MAX_MARKS = 60
SAME_S = 1.0
"""Ages are told in tenths of a second, so the same fault seems to move a little."""
TOO_WARM = ("hot", "critical", "emergency")


class History:
    """Keeps the last hour; times are of the page's clock, in seconds."""

    def __init__(self) -> None:
        self.samples: Ring[Sample] = Ring(MAX_SAMPLES)
        self.spans: Ring[Span] = Ring(MAX_SPANS)
        self.marks: Ring[Mark] = Ring(MAX_MARKS)
        self._seen: dict[str, Mark] = {}  # the latest of each kind

    def note_reading(self, health: NodeHealth, now_s: float) -> None:
        """Note what was read of card and host."""
        card, host = health.card, health.host
        used_mib = None
        if host and host.memory_total_mib and host.memory_available_mib is not None:
            used_mib = host.memory_total_mib - host.memory_available_mib
        self.samples.add(
            {
                "at_s": round(now_s, 1),
                "card_celsius": card.temperature_celsius if card else None,
                "cmm_used_mib": card.cmm_used_mib if card else None,
                "host_celsius": host.temperature_celsius if host else None,
                "host_used_mib": used_mib,
            }
        )
        begin = now_s - SPAN_S
        self.samples.drop_while(lambda sample: sample["at_s"] < begin)

    def note_state(self, word: str, now_s: float) -> None:
        """Note how the node is."""
        if (latest := self.spans.latest) is None or latest["word"] != word:
            self.spans.add({"at_s": round(now_s, 1), "word": word})
        begin = now_s - SPAN_S
        # The one that lasts into the hour began before it.
        self.spans.drop_while(lambda span: span["at_s"] < begin, keep=1)
        self.marks.drop_while(lambda mark: mark["at_s"] < begin)

    def note_trouble(self, health: NodeHealth, now_s: float) -> None:
        """Note the latest fault and the latest step of a recovery, once each."""
        if fault := health.last_fault:
            self._mark("fault", now_s - fault.age_s, fault.code, fault.message)
        if step := health.recovery:
            text = f"{step.reason} (attempt {step.attempt})"
            self._mark("step", now_s - step.age_s, step.step, text)

    def _mark(self, kind: Literal["fault", "step"], at_s: float, word: str, text: str) -> None:
        before = self._seen.get(kind)
        if before and before["word"] == word and abs(before["at_s"] - at_s) < SAME_S:
            return
        mark: Mark = {"at_s": round(at_s, 1), "kind": kind, "word": word, "text": text}
        self._seen[kind] = mark
        self.marks.add(mark)


def word_of(state: str, health: NodeHealth | None) -> str:
    """Say in a word how the node is: what keeps it from answering, or from doing so at full speed.

    Args:
        state: of the engine, or ``stopping``.
        health: of the node, if it is known.
    """
    if state != "ready" or health is None:
        return state
    if health.queue.holds:
        return health.queue.holds[0]
    return health.heat if health.heat in TOO_WARM else "ready"
