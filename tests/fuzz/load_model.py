"""Loads the models that are named on stdin, one to a line, and says on stdout what came of each."""

import os
import sys
import traceback
from pathlib import Path

import numpy as np

from edge_llm.engine.generation import ModelRunner
from edge_llm.engine.model import ModelDirectory
from edge_llm.engine.stacks import open_stack
from edge_llm.errors import EdgeLLMError, ModelError
from edge_llm.settings import WorkerSettings

PROMPT = (1, 2, 3)


def load(path: Path) -> str:
    """Load a model and run it, as ``load_engine`` does but for the tokenizer."""
    try:
        directory = ModelDirectory(path)
        loaded = open_stack(directory, WorkerSettings(model=path), lambda done, total: None)
        embedding = directory.open_embedding(loaded.geometry)
    except ModelError:
        return "refused"
    except EdgeLLMError as exc:
        return f"{type(exc).__name__} while loading: {exc}"
    try:
        runner = ModelRunner(loaded.stack, embedding, loaded.geometry)
        (*_, logits) = runner.prefill(PROMPT)
        assert logits is not None
        assert logits.shape == (loaded.geometry.vocab_size,)
        runner.decode(int(np.nan_to_num(logits).argmax()) % embedding.num_rows)
    except EdgeLLMError:
        return "failed"
    finally:
        loaded.stack.close()
    return "loaded"


def main() -> None:
    """Answer each line with one."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    for line in sys.stdin:
        try:
            said = load(Path(line.rstrip("\n")))
        except Exception:  # noqa: BLE001 - that is what is looked for
            said = traceback.format_exc().replace("\n", "\\n")
        print(said, file=answers, flush=True)


if __name__ == "__main__":
    main()
