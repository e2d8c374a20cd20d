"""Coverage-guided fuzzing of every parser that takes outside input.

``python -m tests.fuzz TARGET --seconds N`` fuzzes one target, ``python -m tests.fuzz --all
--minutes 30`` all of them, each in a process of its own. A target is a module in ``targets``: what
is done with an input, what to begin with, and the words of its language. What a target checks needs
no fuzzer, so ``tests/test_fuzz.py`` runs each seed, and each input that was a mistake once, as an
ordinary test.
"""
