"""What the committed weights were trained on: the grammar's text for this seed, and no other."""

__all__ = ["LONG_SHARE", "NUM_DIALOGUES", "NUM_STEPS", "SEED", "progress"]

SEED = 1
NUM_DIALOGUES = 120_000
LONG_SHARE = 0.01
"""Dialogues of 8 to 26 turns, so that far positions are learned too."""

NUM_STEPS = 1950
FIRST_PLAN_STEPS, PLAN_CHANGED_AT = 2322, 1085
"""The run was planned longer and shortened on the way; kept, so that the weights come out again."""


def progress(step: int) -> float:
    """Return where in the learning rate's schedule a step is, from 0 to 1."""
    return step / (NUM_STEPS if step >= PLAN_CHANGED_AT else FIRST_PLAN_STEPS)
