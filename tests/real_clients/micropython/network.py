"""Stands in for a board's `network` where MicroPython runs on Linux: there is Wi-Fi unless a file
`no-wifi` says that there is none.
"""

import os

STA_IF = 0


class WLAN:
    """The station, which is connected from when it is asked to."""

    def __init__(self, interface):
        assert interface == STA_IF
        self._is_active = self._was_asked = False

    def active(self, is_active):
        self._is_active = is_active

    def connect(self, name, password):
        assert self._is_active, "it must be switched on first"
        self._was_asked = True

    def isconnected(self):
        return self._was_asked and "no-wifi" not in os.listdir()
