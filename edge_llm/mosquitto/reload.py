"""Have mosquitto read its accounts, rights and certificates again; its connections stay."""

import os
import signal
from pathlib import Path

import psutil

__all__ = ["reload_mosquitto"]


def reload_mosquitto(pid_file: Path) -> bool:
    """Send the broker of a pid file SIGHUP, as ``systemctl reload mosquitto`` does.

    It takes in new accounts at once, and ends the connections of those that are gone. Listeners
    and where files are it reads at its start only.

    Returns:
        whether there is such a broker and we may: false is for a person to do it.
    """
    try:
        pid = int(pid_file.read_text())
        if psutil.Process(pid).name() != "mosquitto":  # a number that another has by now
            return False
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError, psutil.Error):
        return False
    return True
