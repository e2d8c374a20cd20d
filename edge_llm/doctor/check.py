"""Checks: each looks at one subject, beside the others, and has a deadline of its own."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from edge_llm.doctor.case import Case
from edge_llm.doctor.finding import Finding, fail
from edge_llm.doctor.threads import in_thread
from edge_llm.errors import EdgeLLMError

__all__ = ["Check", "CheckError", "cut", "run_checks"]

Examine = Callable[[Case], AsyncGenerator[Finding]] | Callable[[Case], Iterable[Finding]]

ENDING_S = 2.0
"""For what was begun to be given back: a program killed, a client taken off the broker."""


class CheckError(Exception):
    """What ends a check, and is its finding.

    Attributes:
        found: what is wrong.
        cure: what to do.
    """

    def __init__(self, found: str, cure: str) -> None:
        super().__init__(found)
        self.found, self.cure = found, cure


@dataclass(frozen=True, slots=True)
class Check:
    """One subject.

    Attributes:
        name: of what is said if it hangs, as ``card.link``.
        examine: an async generator, or a plain function, which is called in a thread.
        hangs: what to do if it does not end.
        deadline_s: after which it does not.
    """

    name: str
    examine: Examine
    hangs: str
    deadline_s: float = 4.0


async def run_checks(checks: Sequence[Check], case: Case) -> AsyncGenerator[Finding]:
    """Run all checks at once, and yield what they find in their order.

    One that hangs, or is itself broken, is a finding.
    """
    tasks = [asyncio.create_task(_run(check, case), name=check.name) for check in checks]
    try:
        for task in tasks:
            for finding in await task:
                yield finding
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(case.aclose(), ENDING_S)


async def _run(check: Check, case: Case) -> list[Finding]:
    found: list[Finding] = []
    work = asyncio.create_task(_examine(check, case, found), name=f"{check.name}.examine")
    try:
        await asyncio.wait({work}, timeout=check.deadline_s)
        if not work.done():
            what = f"it hangs: no answer within {check.deadline_s:g} s"
            return [*found, fail(check.name, what, check.hangs)]
        work.result()
    except CheckError as exc:
        found.append(fail(check.name, exc.found, exc.cure))
    except EdgeLLMError as exc:
        found.append(fail(check.name, *cut(exc.message)))
    except Exception as exc:  # noqa: BLE001 - one broken check must not hide what others found
        what = f"this check failed: {type(exc).__name__}: {exc}"
        found.append(fail(check.name, what, "report it, with all of this text"))
    finally:
        work.cancel()
        await asyncio.wait({work}, timeout=ENDING_S)
    return found


async def _examine(check: Check, case: Case, found: list[Finding]) -> None:
    if inspect.isasyncgenfunction(check.examine):
        async for finding in check.examine(case):
            found.append(finding)  # noqa: PERF401 - at once, as the deadline may come
        return
    examine = cast(Callable[[Case], Iterable[Finding]], check.examine)
    loop = asyncio.get_running_loop()

    def call() -> None:
        for finding in examine(case):
            loop.call_soon_threadsafe(found.append, finding)

    await in_thread(call)


def cut(message: str) -> tuple[str, str]:
    """Part a message of ours into what is wrong and, after the last semicolon, what to do."""
    wrong, semicolon, cure = message.rpartition("; ")
    return (wrong, cure) if semicolon else (message, "see the message")
