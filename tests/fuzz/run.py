"""Fuzzes one target in this process: ``python -m tests.fuzz.run TARGET CRASHES [OPTIONS] CORPUS``.

Options are libFuzzer's. An exception does not end the run, as libFuzzer would have it: its input is
kept in the folder CRASHES, one for each place in the code, and the run goes on. Slowness and too
much memory do end it.
"""

import hashlib
import logging
import random
import sys
import traceback
from pathlib import Path

import atheris

from tests.fuzz.target import BEGUN, PLACES, Target

LARGEST_SEED = 2**32 - 1


class Crashes:
    """Keeps one input for each place where something was raised."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: set[str] = set()

    def note(self, data: bytes, exc: BaseException) -> None:
        """Write down an input, if it is the first one that leads to this place."""
        frames = traceback.extract_tb(exc.__traceback__)
        own = [frame for frame in frames if any(f"/{place}/" in frame.filename for place in PLACES)]
        last = (own or frames)[-1]
        place = f"{type(exc).__name__} {Path(last.filename).name}:{last.name}"
        if place in self._places:
            return
        self._places.add(place)
        name = hashlib.sha256(place.encode()).hexdigest()[:12]
        (self._folder / f"raised-{name}").write_bytes(data)
        (self._folder / f"raised-{name}.txt").write_text(
            f"{place}\n\n{''.join(traceback.format_exception(exc))}", "utf-8", "backslashreplace"
        )


def fuzz(target: Target, crashes: Crashes, options: list[str]) -> None:
    """Run until libFuzzer ends the process."""

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # noqa: BLE001 - a panic in Rust is no Exception
            crashes.note(data, exc)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        # Every second time in the fuzzer's own way, which has learned from comparisons.
        if target.mutate is None or seed % 2:
            return bytes(atheris.Mutate(data, max_size))
        return target.mutate(data, random.Random(seed).randrange(LARGEST_SEED))[:max_size]

    custom = {} if target.mutate is None else {"custom_mutator": mutate}
    atheris.Setup([sys.argv[0], f"-max_len={target.max_len}", *options], check, **custom)
    atheris.Fuzz()


def main() -> None:
    """Read the command line."""
    name, folder, *options = sys.argv[1:]
    with atheris.instrument_imports(include=list(PLACES)):
        from tests.fuzz.target import load_target

        target = load_target(name)
        import structlog
    logging.disable()
    # Libraries that are imported on first use take seconds, which is not the input's fault.
    target.check(next(iter(target.seeds())))
    (Path(folder) / BEGUN).touch()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    fuzz(target, Crashes(Path(folder)), options)


if __name__ == "__main__":
    main()
