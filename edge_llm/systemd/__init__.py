"""The service as systemd sees it: what it is told while that runs, and the end of what is left."""

from edge_llm.systemd.leftovers import end_leftovers
from edge_llm.systemd.notifier import Notifier, notify, reloading, watchdog_interval_s

__all__ = ["Notifier", "end_leftovers", "notify", "reloading", "watchdog_interval_s"]
