"""When a server of the fleet was lost: its clients may send again what was confirmed to nobody.

nats-server does not pass on that a request was sent before, and it comes in as another one. So what
says the same and came in about then, at QoS 1, is answered with the words that were kept first.
"""

import time

__all__ = ["RESENT_S", "Outage"]

RESENT_S = 30.0
"""Within which a client has found another server, and said it again."""
CLOCKS_S = 5.0
"""By which nodes' clocks may differ."""
BEFORE_S = 10.0
"""How long before that it may have come in for the first time, unconfirmed; and clocks differ."""


class Outage:
    """The latest loss, of which nodes tell each other."""

    def __init__(self) -> None:
        self.at = 0.0
        """In Unix seconds; 0 if there was none."""

    def note_ours(self) -> None:
        """Note that the server has gone that we were connected to."""
        self.note(time.time())

    def note(self, at: float) -> None:
        """Note what another node has told; no clock may be so wrong that it never ends."""
        if at < time.time() + CLOCKS_S:
            self.at = max(self.at, at)

    def may_concern(self, arrived_at: float) -> bool:
        """Tell whether a request may have been sent twice, by when it came in, in Unix seconds."""
        return self.at - BEFORE_S <= arrived_at <= self.at + RESENT_S
