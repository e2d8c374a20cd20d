"""``python -m edge_llm.doctor.look``: look into a model, and say each thing in a line of JSON.

It reads its job from standard input, and writes ``[status, subject, text]``.
"""

import json
import os
import sys
from pathlib import Path
from typing import TextIO

from edge_llm.engine.examine import examine
from edge_llm.engine.model import ModelDirectory
from edge_llm.errors import EdgeLLMError
from edge_llm.settings import WorkerSettings

__all__ = ["main"]

SAID = ("model", "card")
"""What other checks say."""
SUBJECTS = {"memory": "conversations"}
"""``model.memory`` is what can be said without a look."""


def main(job: str, output: TextIO) -> None:
    """Look into the model of a job, as ``look_into`` gives it."""
    values = json.loads(job)

    def say(status: str, subject: str, text: str) -> None:
        print(json.dumps([status, subject, text]), file=output, flush=True)

    try:
        worker = WorkerSettings.model_validate(values["worker"])
        directory = ModelDirectory(Path(values["model"]))
        for heading, text in examine(directory, worker, load=values["load"]):
            if heading == "no runtime":
                say("fail", "runtime", text)
            elif heading not in SAID:
                say("ok", SUBJECTS.get(heading, heading), text)
    except EdgeLLMError as exc:
        say("fail", "runtime", exc.message)


if __name__ == "__main__":
    # The vendor's libraries print to standard output.
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)
        main(sys.stdin.read(), output)
