"""Heat of the card, and leaks of its memory: readings and a time in, states out."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_llm.device.health import HeatGauge, Leak, LeakWatch
from edge_llm.protocol import Heat
from edge_llm.settings import ThermalSettings

HOUR_S = 3600.0
ORDER: tuple[Heat, ...] = ("normal", "warn", "hot", "critical", "emergency")
# Hot is left as soon as its hysteresis allows it: what a hot card spares is none of this test.
UNHURRIED = ThermalSettings(hot_duty=1.0)


def heats(
    *celsius: float | None, settings: ThermalSettings = UNHURRIED, every_s: float = 10.0
) -> list[Heat | None]:
    """Return the state after each reading."""
    gauge = HeatGauge(settings)
    states = []
    for number, reading in enumerate(celsius):
        before = gauge.heat
        assert gauge.note(reading, number * every_s) == (gauge.heat != before)
        states.append(gauge.heat)
    return states


# Heat -------------------------------------------------------------------------------------------


def test_heat_is_unknown_until_a_temperature_is_known() -> None:
    assert heats(None, math.nan, 41) == [None, None, "normal"]


def test_each_threshold_begins_its_state() -> None:
    assert heats(69.9, 70, 74.9, 75, 79.9, 80, 84.9, 85) == [
        "normal", "warn", "warn", "hot", "hot", "critical", "critical", "emergency",
    ]  # fmt: skip


def test_a_jump_passes_straight_to_its_state() -> None:
    assert heats(40, 90) == ["normal", "emergency"]
    assert heats(81) == ["critical"]


def test_a_state_is_left_below_its_threshold_less_the_hysteresis() -> None:
    assert heats(70, 67, 66.9) == ["warn", "warn", "normal"]
    assert heats(75, 72, 71.9, 67, 66) == ["hot", "hot", "warn", "warn", "normal"]
    assert heats(75, 66) == ["hot", "normal"]


def test_after_a_pause_it_goes_on_below_the_resume_temperature() -> None:
    # As a hot one: full speed would lead straight back.
    assert heats(80, 76, 70, 69.9) == ["critical", "critical", "critical", "hot"]
    assert heats(85, 79, 70, 69) == ["emergency", "emergency", "emergency", "hot"]
    assert heats(85, 41) == ["emergency", "normal"]


def test_a_resume_temperature_next_to_critical_has_its_hysteresis_too() -> None:
    settings = ThermalSettings(resume_celsius=79.5)
    assert heats(80, 79, 77, 76.9, settings=settings) == ["critical", "critical", "critical", "hot"]


def test_up_to_90_and_down_again_are_six_changes_whatever_is_done() -> None:
    up = [40 + number / 4 for number in range(201)]
    states = heats(*up, *reversed(up), settings=ThermalSettings())
    changes = [state for before, state in pairwise(states) if state != before]
    assert changes == ["warn", "hot", "critical", "emergency", "hot", "normal"]


def test_hot_is_left_where_full_load_would_not_be_hot() -> None:
    assert heats(75, 71, 58, 57, 56.9, settings=ThermalSettings()) == ["hot"] * 4 + ["normal"]
    gentle = ThermalSettings(hot_duty=0.8)
    assert heats(75, 66, 65.9, settings=gentle) == ["hot", "hot", "normal"]


def test_what_is_hot_again_within_an_hour_stays_hot_for_an_hour() -> None:
    gauge = HeatGauge(ThermalSettings())
    for celsius, now, heat in (
        (75, 0, "hot"),
        (50, 60, "normal"),
        (75, 3000, "hot"),
        (50, 3060, "hot"),
        (50, 6599, "hot"),
        (50, 6600, "normal"),
        (75, 6600 + HOUR_S, "hot"),  # it was well for an hour
        (50, 6660 + HOUR_S, "normal"),
    ):
        gauge.note(celsius, now)
        assert gauge.heat == heat, now


def test_after_six_hours_the_plain_hysteresis_will_do() -> None:
    gauge = HeatGauge(ThermalSettings())
    gauge.note(75, 0)
    assert not gauge.note(71, 6 * HOUR_S - 1)
    assert not gauge.note(72, 6 * HOUR_S)
    assert gauge.note(71, 6 * HOUR_S)
    assert gauge.heat == "warn"


def test_each_pause_halves_the_work_of_a_hot_card() -> None:
    gauge = HeatGauge(ThermalSettings())
    duties = []
    for celsius in (41, 70, 75, 80, 69, 81, 86, 69, 80, 41, 75):
        gauge.note(celsius, 0)
        duties.append(gauge.duty)
    assert duties == [1, 1, 0.5, 0, 0.25, 0, 0, 0.125, 0, 1, 0.5]


def test_the_work_of_a_hot_card_never_comes_to_nothing() -> None:
    gauge = HeatGauge(ThermalSettings())
    for _ in range(100):
        gauge.note(80, 0)
        gauge.note(69, 0)
    assert gauge.duty == 0.05
    gauge = HeatGauge(ThermalSettings(hot_duty=0.01))
    gauge.note(80, 0)
    gauge.note(69, 0)
    assert gauge.duty == 0.01


@pytest.mark.parametrize("unknown", [None, math.nan, math.inf, -math.inf, -273.15, 1e6, 151, -41])
@pytest.mark.parametrize(
    ("celsius", "heat", "later"),
    [
        (41, "normal", None),
        (70, "warn", None),
        (75, "hot", None),
        (80, "critical", "hot"),
        (90, "emergency", "hot"),
    ],
)
def test_an_unknown_temperature_keeps_the_state_for_ten_minutes(
    unknown: float | None, celsius: float, heat: Heat, later: Heat | None
) -> None:
    gauge = HeatGauge(ThermalSettings())
    assert gauge.note(celsius, 0)
    assert not gauge.note(unknown, 599)
    assert gauge.heat == heat
    assert gauge.note(unknown, 600)
    assert gauge.heat == later
    assert not gauge.note(unknown, 1e6)  # and so it stays
    assert gauge.note(86, 1e6)


def test_a_known_temperature_in_between_begins_the_ten_minutes_anew() -> None:
    assert heats(80, None, 79, None, 79, every_s=590) == ["critical"] * 5
    assert heats(80, None, None, 79, every_s=590) == ["critical", "critical", "hot", "hot"]


readings = st.one_of(st.none(), st.floats(), st.floats(30, 100), st.integers(60, 90))
thermal = st.builds(
    lambda base, steps, down, hysteresis, duty: ThermalSettings(
        warn_celsius=base,
        hot_celsius=base + steps[0],
        critical_celsius=base + sum(steps[:2]),
        emergency_celsius=base + sum(steps),
        resume_celsius=base + sum(steps[:2]) - down,
        hysteresis_celsius=hysteresis,
        hot_duty=duty,
    ),
    st.integers(40, 80),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.integers(1, 20),
    st.integers(0, 20),
    st.floats(0.05, 1),
)


@given(thermal, st.lists(st.tuples(readings, st.floats(0, 8000)), max_size=60))
def test_whatever_is_read(
    settings: ThermalSettings, steps: list[tuple[float | None, float]]
) -> None:
    gauge, now = HeatGauge(settings), 0.0
    begins = (
        -math.inf,
        settings.warn_celsius,
        settings.hot_celsius,
        settings.critical_celsius,
        settings.emergency_celsius,
    )
    for celsius, passed_s in steps:
        now += passed_s
        before = gauge.heat
        assert gauge.note(celsius, now) == (gauge.heat != before)
        assert 0 <= gauge.duty <= 1
        assert (gauge.duty == 0) == (gauge.heat in ("critical", "emergency"))
        if celsius is None or not -40 <= celsius <= 150:
            continue
        assert gauge.heat is not None
        assert celsius >= begins[ORDER.index(gauge.heat)] or before is not None
        level = ORDER.index(gauge.heat)
        assert level == 4 or celsius < begins[level + 1]  # never cooler than it is
        if before in ("critical", "emergency") and level < 3:
            assert celsius < settings.resume_celsius
        if before is None:
            assert celsius >= begins[level]
        elif level < ORDER.index(before):
            assert celsius < begins[ORDER.index(before)] - settings.hysteresis_celsius


# Leaks ------------------------------------------------------------------------------------------


def watch(*, loaded_at: float = 0.0, baseline: int = 1000) -> LeakWatch:
    """Return one with a margin of 200 MiB, and a model that has settled."""
    watch = LeakWatch(200)
    watch.loaded(loaded_at)
    assert watch.note(baseline, loaded_at + 15) is None
    return watch


def fall(watch: LeakWatch, free_mib: int, now: float) -> Leak | None:
    """Return what two low readings in a row lead to."""
    assert watch.note(free_mib, now) is None
    return watch.note(free_mib, now + 30)


def test_before_a_load_nothing_is_a_leak() -> None:
    watch = LeakWatch(200)
    assert [watch.note(free, now * 30) for now, free in enumerate((7000, 10, 10, 10))] == [None] * 4


def test_the_first_reading_that_has_settled_is_what_the_model_left() -> None:
    watch = LeakWatch(200, settle_s=15)
    watch.loaded(100)
    for free, now in ((7000, 100), (300, 114.9), (None, 120), (1000, 130)):
        assert watch.note(free, now) is None
    assert fall(watch, 799, 200) == Leak(1000, 799, is_ours=True, wants_reload=True)


def test_a_leak_takes_two_low_readings_in_a_row() -> None:
    leaking = watch()
    assert [leaking.note(free, 100) for free in (799, 800, 799, 1000, 0, 900)] == [None] * 6
    assert leaking.note(799, 200) is None
    assert leaking.note(None, 230) is None  # changes nothing
    assert leaking.note(700, 260) == Leak(1000, 700, is_ours=True, wants_reload=True)


def test_a_leak_is_told_once_per_load() -> None:
    leaking = watch()
    assert fall(leaking, 700, 100)
    assert [leaking.note(free, 1e6 + free) for free in (600, 500, 1000, 400, 300)] == [None] * 5
    leaking.loaded(2e6)
    assert leaking.note(1000, 2e6 + 15) is None
    assert fall(leaking, 700, 2e6 + 100)


def test_one_reload_an_hour_is_asked_for_and_the_next_one_when_the_hour_is_over() -> None:
    leaking = watch()
    first = fall(leaking, 700, 100)
    assert first
    assert first.wants_reload
    leaking.loaded(200)
    assert leaking.note(1000, 215) is None  # that was of use
    assert fall(leaking, 700, 1000) == Leak(1000, 700, is_ours=True, wants_reload=False)
    assert leaking.note(690, 130 + HOUR_S - 1) is None
    assert leaking.note(690, 130 + HOUR_S) == Leak(1000, 690, is_ours=True, wants_reload=True)
    assert leaking.note(690, 130 + 9 * HOUR_S) is None


def test_memory_that_a_reload_does_not_bring_back_is_somebody_elses() -> None:
    leaking = watch()
    assert fall(leaking, 700, 100)
    leaking.loaded(200)
    assert leaking.note(800, 215) is None  # 100 MiB more, half of the margin
    leak = fall(leaking, 500, 2 * HOUR_S)
    assert leak == Leak(800, 500, is_ours=False, wants_reload=False)
    assert leaking.note(400, 9 * HOUR_S) is None
    leaking.loaded(10 * HOUR_S)  # for another reason
    assert leaking.note(810, 10 * HOUR_S + 15) is None
    assert fall(leaking, 500, 11 * HOUR_S) == Leak(810, 500, is_ours=False, wants_reload=False)


def test_when_somebody_gives_memory_back_the_next_leak_is_ours_again() -> None:
    leaking = watch()
    assert fall(leaking, 700, 100)
    leaking.loaded(200)
    assert leaking.note(750, 215) is None
    leaking.loaded(HOUR_S)
    assert leaking.note(1000, HOUR_S + 15) is None
    assert fall(leaking, 700, 2 * HOUR_S) == Leak(1000, 700, is_ours=True, wants_reload=True)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["load", "note", "note", "note"]),
            st.one_of(st.none(), st.integers(0, 2000)),
            st.floats(0, 2000),
        ),
        max_size=80,
    )
)
def test_whatever_is_free(steps: list[tuple[str, int | None, float]]) -> None:
    watch, now = LeakWatch(200), 0.0
    asked: list[float] = []
    told_since_load: list[Leak] = []
    for what, free, passed_s in steps:
        now += passed_s
        if what == "load":
            watch.loaded(now)
            told_since_load = []
        elif leak := watch.note(free, now):
            assert leak.free_mib == free
            assert leak.free_mib < leak.baseline_mib - 200
            assert leak.is_ours or not leak.wants_reload
            told_since_load.append(leak)
            if leak.wants_reload:
                asked.append(now)
    assert all(later - earlier >= HOUR_S for earlier, later in pairwise(asked))
    assert len(told_since_load) <= 2
    assert sum(leak.wants_reload for leak in told_since_load) <= 1
