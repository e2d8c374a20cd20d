"""Python runs this at the start of each process of a node under test; only workers are changed."""

import sys

if "edge_llm.engine.worker.process" in sys.orig_argv:
    from tests.reliability.in_worker import prepare

    prepare()
