"""What a line of the log holds."""

import json
import subprocess
import sys

WARN = """
import logging
from edge_llm.log import set_up_log
from edge_llm.settings import LogSettings

set_up_log(LogSettings(format="json"))
logging.getLogger("a.library").warning("mind the %s", "gap")
"""


def test_a_librarys_warning_is_a_line_like_ours() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WARN], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == ""
    line = json.loads(done.stderr)
    assert line.pop("timestamp")
    assert line == {"event": "mind the gap", "level": "warning"}
