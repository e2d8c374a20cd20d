"""Which step is next, and when: failures and times in, attempts out."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_llm.device.ladder import Attempt, Ladder
from edge_llm.protocol import RecoveryStep
from edge_llm.settings import RecoverySettings

HOUR_S = 3600.0
ALL: tuple[RecoveryStep, ...] = ("restart", "reboot_card", "reload_driver")
RESETS = ("reboot_card", "reload_driver")
ROUNDING_S = 1e-6


class Broken:
    """An engine that fails each attempt as soon as that is made."""

    def __init__(self, steps: Sequence[RecoveryStep] = ALL, **settings: object) -> None:
        self.ladder = Ladder(RecoverySettings.model_validate(settings), steps)
        self.now = 1000.0
        self.attempts: list[Attempt] = []
        self.times: list[float] = []

    def fail(self, times: int = 1) -> Attempt:
        for _ in range(times):
            attempt = self.ladder.fail("the card is dead", self.now)
            self.now += attempt.wait_s
            self.attempts.append(attempt)
            self.times.append(self.now)
        return self.attempts[-1]

    @property
    def steps(self) -> list[str]:
        return [attempt.step for attempt in self.attempts]

    @property
    def waits(self) -> list[float]:
        return [attempt.wait_s for attempt in self.attempts]


def test_each_step_is_tried_three_times_and_then_a_person_is_needed() -> None:
    broken = Broken()
    broken.fail(9)
    assert broken.steps == ["restart"] * 3 + ["reboot_card"] * 3 + ["reload_driver"] * 3
    assert not broken.ladder.needs_help
    assert broken.fail().needs_help
    assert broken.ladder.needs_help
    assert [attempt.number for attempt in broken.attempts] == list(range(1, 11))
    assert broken.ladder.tried == "3 restarts, 3 reboots of the card, 3 reloads of the driver"


def test_the_first_attempt_is_made_at_once_and_each_next_one_waits_longer() -> None:
    broken = Broken(failures_per_step=5)
    broken.fail(10)
    assert broken.waits == [0, 15, 30, 60, 60, 15, 30, 60, 60, 60]


def test_an_attempt_that_took_long_is_not_waited_for_twice() -> None:
    broken = Broken()
    broken.fail()
    broken.now += 12
    assert broken.fail().wait_s == 3
    broken.now += 100
    assert broken.fail().wait_s == 0


def test_after_a_success_it_is_at_the_foot_again() -> None:
    broken = Broken()
    broken.fail(20)
    broken.ladder.succeed(broken.now)
    assert not broken.ladder.needs_help
    assert broken.ladder.tried == "nothing"
    broken.now += 15
    assert broken.fail() == Attempt("restart", 0, 1, "the card is dead")
    assert broken.ladder.tried == "nothing"
    broken.fail()
    assert broken.ladder.tried == "1 restart"


def test_an_engine_that_is_well_for_seconds_only_does_not_hammer_the_card() -> None:
    broken = Broken()
    for _ in range(100):
        broken.fail()
        broken.now += 1
        broken.ladder.succeed(broken.now)
        broken.now += 1
    assert broken.waits[:3] == [0, 13, 13]
    assert set(broken.steps) == {"restart"}
    in_an_hour = [time for time in broken.times if time < broken.times[0] + HOUR_S]
    assert len(in_an_hour) == RecoverySettings().max_per_hour


def test_while_a_person_is_needed_it_goes_on_more_and_more_rarely() -> None:
    broken = Broken(max_resets_per_hour=60)
    broken.fail(9)
    help_begins = len(broken.waits)
    broken.fail(8)
    assert broken.waits[help_begins:] == [120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert broken.steps[help_begins:] == [
        "restart", "reboot_card", "restart", "reload_driver",
        "restart", "reboot_card", "restart", "reload_driver",
    ]  # fmt: skip
    assert broken.fail(10_000).wait_s == 3600


def test_a_person_is_waited_for_at_least_as_long_as_between_other_attempts() -> None:
    broken = Broken(["restart"], interval_s=40, retry_after_s=15)
    broken.fail(5)
    assert broken.waits == [0, 40, 60, 40, 80]


def test_without_a_card_there_are_restarts_only() -> None:
    broken = Broken(["restart"])
    broken.fail(3)
    assert not broken.ladder.needs_help
    broken.fail(5)
    assert broken.ladder.needs_help
    assert set(broken.steps) == {"restart"}


def test_attempts_that_are_used_up_wait_until_the_oldest_is_an_hour_old() -> None:
    broken = Broken(["restart"], max_per_hour=4, failures_per_step=100)
    broken.fail(4)
    assert broken.waits == [0, 15, 30, 60]
    first, second = broken.times[:2]
    broken.fail()
    assert broken.now == first + HOUR_S
    broken.fail()
    assert broken.now == second + HOUR_S + 45  # by back-off, a minute after the one before


def test_resets_that_are_used_up_are_restarts_instead() -> None:
    broken = Broken(max_resets_per_hour=4)
    broken.fail(9)
    assert broken.steps[3:] == ["reboot_card"] * 3 + ["reload_driver"] + ["restart"] * 2
    assert broken.waits[3:] == [15, 30, 60, 15, 30, 60]
    assert broken.fail().needs_help


def test_without_any_reset_allowed_the_ladder_is_short() -> None:
    broken = Broken(max_resets_per_hour=0)
    broken.fail(4)
    assert set(broken.steps) == {"restart"}
    assert broken.ladder.needs_help


def test_what_was_tried_is_remembered() -> None:
    broken = Broken()
    broken.fail(4)
    history = broken.ladder.history
    assert [past.at for past in history] == broken.times
    assert history[-1] == (broken.now, "reboot_card", "the card is dead")
    broken.ladder.succeed(broken.now)
    assert len(history) == 4
    broken.fail(1000)
    assert len(history) == 256


def test_somebody_who_mends_it_meanwhile_does_not_make_the_next_failure_wait() -> None:
    broken = Broken()
    broken.fail(16)
    waiting = broken.ladder.fail("still", broken.now)
    assert waiting.wait_s == 3600
    broken.now += 100  # a person has ordered a restart, and it works
    broken.ladder.succeed(broken.now)
    broken.now += 20
    assert broken.fail().wait_s == 0
    broken.ladder.succeed(broken.now)
    broken.fail(16)
    broken.ladder.fail("still", broken.now)
    broken.now += 100  # another order, and it does not
    assert broken.fail().wait_s == 3600


@pytest.mark.parametrize(
    "steps",
    [
        [],
        ["reboot_card"],
        ["reboot_card", "restart"],
        ["restart", "restart"],
        ["restart", "wait_for_help"],
        ["restart", "reload"],
        ["restart", "reload_driver", "reboot_card"],
    ],
)
def test_what_is_no_ladder_is_refused(steps: list[RecoveryStep]) -> None:
    with pytest.raises(ValueError, match="no steps of a ladder"):
        Ladder(RecoverySettings(), steps)


recovery = st.builds(
    RecoverySettings,
    failures_per_step=st.integers(1, 5),
    interval_s=st.floats(15, 400),
    max_per_hour=st.integers(1, 120),
    max_resets_per_hour=st.integers(0, 60),
    retry_after_s=st.floats(15, 5000),
)
ladders = st.sampled_from([ALL, ALL[:1], ALL[:2], ("restart", "reload_driver")])
# What happens, and when: so many times the wait that it was told, and so many seconds later.
events = st.tuples(
    st.sampled_from(["fail", "fail", "fail", "fail", "succeed"]),
    st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
    st.one_of(st.just(0.0), st.floats(0, 20), st.floats(0, 5000)),
)


@given(recovery, ladders, st.lists(events, max_size=100))
def test_whatever_happens(
    settings: RecoverySettings,
    steps: tuple[RecoveryStep, ...],
    happenings: list[tuple[str, float, float]],
) -> None:
    ladder, now = Ladder(settings, steps), 0.0
    made: list[tuple[float, RecoveryStep]] = []
    planned: tuple[float, RecoveryStep] | None = None
    latest = -HOUR_S  # when an attempt was made, or came to nothing
    in_a_row = 0
    possible = steps if settings.max_resets_per_hour else steps[:1]
    for what, share, later_s in happenings:
        now += (planned[0] - now if planned else 0.0) * share + later_s
        if planned:
            latest = min(now, planned[0])
            if planned[0] <= now + ROUNDING_S:
                made.append(planned)
        planned = None
        if what == "succeed":
            ladder.succeed(now)
            in_a_row = 0
            assert not ladder.needs_help
            continue
        attempt = ladder.fail("a reason", now)
        in_a_row += 1
        assert attempt.step in steps
        assert 0 <= attempt.wait_s <= max(HOUR_S, settings.retry_after_s) + ROUNDING_S
        assert attempt.number == in_a_row
        if in_a_row == 1 and now - latest >= HOUR_S:
            assert attempt.wait_s == 0
        rung = (in_a_row - 1) // settings.failures_per_step
        assert attempt.needs_help == ladder.needs_help == (rung >= len(possible))
        if not attempt.needs_help:
            assert attempt.step in (possible[rung], "restart")
        planned = (now + attempt.wait_s, attempt.step)
    check_spacing(made, settings)


def check_spacing(made: list[tuple[float, RecoveryStep]], settings: RecoverySettings) -> None:
    times = [time for time, _step in made]
    resets = [time for time, step in made if step in RESETS]
    assert all(b - a >= settings.interval_s - ROUNDING_S for a, b in pairwise(times))
    for found, most in ((times, settings.max_per_hour), (resets, settings.max_resets_per_hour)):
        pairs = zip(found, found[most:], strict=False)
        assert all(later - earlier >= HOUR_S - ROUNDING_S for earlier, later in pairs)


@given(recovery, ladders)
def test_an_engine_that_never_comes_back_climbs_step_by_step(
    settings: RecoverySettings, steps: tuple[RecoveryStep, ...]
) -> None:
    broken = Broken(steps, **{**settings.model_dump(), "max_resets_per_hour": 60})
    num_tries = settings.failures_per_step
    broken.fail(num_tries * len(steps))
    assert broken.steps == [step for step in steps for _ in range(num_tries)]
    assert not broken.ladder.needs_help
    assert all(attempt.needs_help for attempt in (broken.fail() for _ in range(20)))
    assert set(broken.steps[-20:]) == set(steps)
