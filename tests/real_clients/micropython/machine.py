"""Stands in for a board's `machine` where MicroPython runs on Linux.

The button is a file: what stands in `button` are the levels that the pin has, one for each time
that it is read; the last one stays.
"""

import os
import time


class Pin:
    """A pin with a button to ground."""

    IN = 0
    PULL_UP = 1

    def __init__(self, number, mode, pull):
        assert (mode, pull) == (Pin.IN, Pin.PULL_UP)
        self._levels = "1"

    def value(self):
        if len(self._levels) > 1:
            self._levels = self._levels[1:]
        elif "button" in os.listdir():
            with open("button") as file:
                self._levels = file.read()
            os.remove("button")
        return int(self._levels[0])


class WDT:
    """A watchdog that only says so when it would have reset the board."""

    def __init__(self, timeout):
        assert timeout <= 8388, "a Pico's takes no longer"
        self._timeout, self._fed_at = timeout, time.ticks_ms()

    def feed(self):
        now = time.ticks_ms()
        if time.ticks_diff(now, self._fed_at) > self._timeout:
            print("the watchdog has bitten")
        self._fed_at = now
