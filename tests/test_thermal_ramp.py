"""A warm day in virtual time: a card that gets hot, and what the service does about it."""

import math
import random
from dataclasses import dataclass, field

import pytest

from edge_llm.device.health import HeatGauge
from edge_llm.protocol import Heat
from edge_llm.settings import DeviceSettings

SETTINGS = DeviceSettings()
THERMAL = SETTINGS.thermal

BASE_CELSIUS = 20.0  # of the room, in the morning and in the evening
READ_QUICKLY_S = 10.0  # from warn on
NOISE = 0.4  # of the sensor
SENTENCE_S = 15.0  # critical: the sentence in hand is finished, at the pace of a hot card
FULL_CELSIUS = 94.0  # what the card would have at the top with full load and no reaction
HOUR_S = 3600.0
ORDER: tuple[Heat, ...] = ("normal", "warn", "hot", "critical", "emergency")


@dataclass(frozen=True)
class Card:
    """Warms up as a body of one piece does: its rise above the room is in proportion to its power.

    Known of cards in the open: 37 to 41 °C idle, which is 16 K above a room of 23 °C, and 50 to
    70 °C under load. Nobody has published a time constant; some minutes are assumed, as of a small
    heat sink, and others are tried.
    """

    idle_rise: float = 16.0
    load_rise: float = 30.0
    time_constant_s: float = 180.0

    def settles_at(self, ambient: float, duty: float) -> float:
        return ambient + self.idle_rise + self.load_rise * duty


@dataclass(frozen=True)
class Day:
    """The room gets warmer and cooler again; the card has work all the time."""

    card: Card = Card()
    full_celsius: float = FULL_CELSIUS
    rise_s: float = HOUR_S
    top_s: float = HOUR_S / 2

    @property
    def length_s(self) -> float:
        return 2 * self.rise_s + self.top_s + HOUR_S

    def ambient(self, now: float) -> float:
        top = self.full_celsius - self.card.settles_at(0, 1)
        down = (2 * self.rise_s + self.top_s - now) / self.rise_s
        return BASE_CELSIUS + (top - BASE_CELSIUS) * min(1.0, now / self.rise_s, max(0.0, down))


@dataclass
class Course:
    """What happened."""

    highest: float = 0.0
    work_s: float = 0.0
    heats: list[Heat] = field(default_factory=list)
    """The first one is known with the first reading."""

    @property
    def num_changes(self) -> int:
        return len(self.heats) - 1


class Plain:
    """What the gauge does more than: each state is left at the same distance from its threshold."""

    def __init__(self, hysteresis: float) -> None:
        self._hysteresis = hysteresis
        self._level = 0

    @property
    def heat(self) -> Heat:
        return ORDER[self._level]

    @property
    def duty(self) -> float:
        return (1.0, 1.0, THERMAL.hot_duty, 0.0, 0.0)[self._level]

    def note(self, celsius: float, now: float) -> bool:
        before = self._level
        begins = (
            THERMAL.warn_celsius,
            THERMAL.hot_celsius,
            THERMAL.critical_celsius,
            THERMAL.emergency_celsius,
        )
        risen = sum(celsius >= begin for begin in begins)
        fallen = sum(celsius >= begin - self._hysteresis for begin in begins)
        self._level = max(risen, min(self._level, fallen))
        return self._level != before


def run(day: Day, gauge: HeatGauge | Plain, *, reacts: bool = True) -> Course:
    """Go through a day second by second, with the tool's whole degrees and a noisy sensor."""
    chance = random.Random(1)
    course = Course()
    celsius = day.card.settles_at(BASE_CELSIUS, 0)
    duty, read_at, pause_at = 1.0, 0.0, math.inf
    share = 1 - math.exp(-1 / day.card.time_constant_s)
    for second in range(int(day.length_s)):
        now = float(second)
        celsius += (day.card.settles_at(day.ambient(now), duty) - celsius) * share
        course.highest = max(course.highest, celsius)
        course.work_s += duty
        if now >= read_at:
            if gauge.note(round(celsius + chance.uniform(-NOISE, NOISE)), now) and gauge.heat:
                course.heats.append(gauge.heat)
                if reacts:
                    pause_at = now + SENTENCE_S if gauge.heat == "critical" else math.inf
                    duty = duty if gauge.heat == "critical" else gauge.duty
            is_cool = gauge.heat in (None, "normal")
            read_at = now + (SETTINGS.interval_s if is_cool else READ_QUICKLY_S)
        if now >= pause_at:
            duty = 0.0
    return course


def test_a_warm_day() -> None:
    course = run(Day(), HeatGauge(THERMAL))
    assert course.heats == ["normal", "warn", "hot", "normal"]
    assert course.highest < THERMAL.critical_celsius
    assert course.work_s > 0.6 * Day().length_s


def test_without_a_reaction_it_would_be_too_hot() -> None:
    assert run(Day(), HeatGauge(THERMAL), reacts=False).highest > 90


def test_the_usual_hysteresis_would_go_to_and_fro() -> None:
    ours, usual, none = (
        run(Day(), gauge).num_changes for gauge in (HeatGauge(THERMAL), Plain(3.0), Plain(0.0))
    )
    assert ours <= 6
    assert 24 < usual < none


@pytest.mark.parametrize("rise_s", [HOUR_S / 2, HOUR_S, 3 * HOUR_S])
@pytest.mark.parametrize("time_constant_s", [20.0, 60.0, 180.0, 600.0])
@pytest.mark.parametrize("load_rise", [20.0, 25.0, 30.0])
def test_other_cards_and_other_days(
    load_rise: float, time_constant_s: float, rise_s: float
) -> None:
    card = Card(load_rise=load_rise, time_constant_s=time_constant_s)
    course = run(Day(card, rise_s=rise_s, top_s=rise_s / 2), HeatGauge(THERMAL))
    assert course.highest < THERMAL.emergency_celsius
    assert course.num_changes <= 6
    assert course.heats[-1] == "normal"


@pytest.mark.parametrize("full_celsius", [98.0, 104.0, 112.0])
@pytest.mark.parametrize("time_constant_s", [30.0, 180.0])
@pytest.mark.parametrize("load_rise", [30.0, 40.0])
def test_where_even_half_of_the_work_is_too_much(
    load_rise: float, time_constant_s: float, full_celsius: float
) -> None:
    """It is worked as much as can be cooled, and not in turns of work and pause."""
    day = Day(Card(load_rise=load_rise, time_constant_s=time_constant_s), full_celsius)
    ours = run(day, HeatGauge(THERMAL))
    assert ours.highest < THERMAL.emergency_celsius
    assert ours.num_changes <= 12
    assert ours.work_s > 0.25 * day.length_s
    assert run(day, Plain(3.0)).num_changes > 2 * ours.num_changes
