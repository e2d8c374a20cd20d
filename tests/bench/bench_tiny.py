"""What the built-in model makes of untaught questions: ``python -m tests.bench.bench_tiny``.

Two sets of a hundred: far paraphrases written without looking at the grammar, and questions whose
template was withheld from the grammar. Prints the misses, a table and JSON.
"""

import json

from edge_llm.engine.loading import load_engine
from edge_llm.settings import EngineSettings
from tests.test_tiny import FAR, WITHHELD, answer, has_all


def main() -> None:
    """Ask, and print."""
    engine = load_engine(EngineSettings())
    scores = {}
    for name, cases in (("withheld", WITHHELD), ("far", FAR)):
        scores[name] = len(cases)
        for case in cases:
            text, _ = answer(engine, case["messages"], temperature=0.0)
            if not has_all(text, case["must"]):
                scores[name] -= 1
                print(f"{case['id']:20} {case['messages'][-1]['content']!r} -> {text!r}")
    for name, score in scores.items():
        print(f"{name:16} {score}")
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
