"""How long is waited between two tries; no broker, and no clock but the test's."""

import pytest

from edge_llm.mqtt import connection as mqtt
from edge_llm.mqtt.backoff import Backoff

SHORTEST_S, LONGEST_S = mqtt.RECONNECT_DELAY_S


class Clock:
    """Goes forward when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backoff(clock: Clock) -> Backoff:
    return Backoff(mqtt.RECONNECT_DELAY_S, clock)


def draw(backoff: Backoff) -> tuple[float, float]:
    """Return the shortest and the longest of many delays."""
    drawn = [backoff.draw_delay_s() for _ in range(200)]
    return min(drawn), max(drawn)


def live(backoff: Backoff, clock: Clock, life_s: float, **how: bool) -> None:
    backoff.accepted()
    clock.now_s += life_s
    backoff.lost(**{"unexplained": True, **how})


def test_nodes_that_lost_the_same_broker_do_not_all_come_back_at_once(backoff: Backoff) -> None:
    shortest, longest = draw(backoff)
    assert SHORTEST_S / 2 <= shortest < SHORTEST_S * 0.7
    assert SHORTEST_S * 1.3 < longest <= SHORTEST_S * 1.5


def test_an_hour_without_a_broker(backoff: Backoff, clock: Clock) -> None:
    live(backoff, clock, 3600)
    waited_s, num_tries = 0.0, 0
    while waited_s < 3600:
        delay_s = backoff.draw_delay_s()
        assert SHORTEST_S / 2 <= delay_s <= LONGEST_S * 1.5
        waited_s += delay_s
        num_tries += 1
        backoff.failed()
    assert 3600 / (LONGEST_S * 1.5) < num_tries < 160
    assert draw(backoff)[0] >= LONGEST_S / 2  # and a year would not change that
    for _ in range(10_000):
        backoff.failed()
    assert draw(backoff)[1] <= LONGEST_S * 1.5
    backoff.accepted()
    assert draw(backoff)[1] <= SHORTEST_S * 1.5


def test_connections_that_live_for_seconds_only_do_not_hammer(
    backoff: Backoff, clock: Clock
) -> None:
    for _ in range(8):
        live(backoff, clock, 1, unexplained=False)
    assert not backoff.is_taken_over
    assert draw(backoff)[0] >= LONGEST_S / 2
    live(backoff, clock, 11, unexplained=False)
    assert draw(backoff)[1] <= SHORTEST_S * 1.5


def test_a_broker_that_says_it_is_believed(backoff: Backoff, clock: Clock) -> None:
    live(backoff, clock, 3600, unexplained=False, taken_over=True)
    assert backoff.is_taken_over
    shortest, longest = draw(backoff)
    assert 2.5 <= shortest < longest <= 7.5
    for _ in range(20):
        live(backoff, clock, 20, unexplained=False, taken_over=True)
    shortest, longest = draw(backoff)
    assert 30 <= shortest < longest <= 90


def test_being_closed_within_seconds_again_and_again_is_taken_for_it(
    backoff: Backoff, clock: Clock
) -> None:
    for _ in range(2):
        live(backoff, clock, 1)
    assert not backoff.is_taken_over
    live(backoff, clock, 1)
    assert backoff.is_taken_over
    live(backoff, clock, 20)  # the other one waits too
    assert backoff.is_taken_over
    assert draw(backoff)[0] >= 5
    live(backoff, clock, 60)
    assert not backoff.is_taken_over
    assert draw(backoff)[1] <= SHORTEST_S * 1.5


@pytest.mark.parametrize("between", ["unreachable", "silent", "long"])
def test_a_bad_network_or_broker_is_not_taken_for_it(
    backoff: Backoff, clock: Clock, between: str
) -> None:
    for _ in range(10):
        live(backoff, clock, 1)
        live(backoff, clock, 1)
        match between:
            case "unreachable":
                backoff.failed()
            case "silent":
                live(backoff, clock, 1, unexplained=False)
            case _:
                live(backoff, clock, 11)
    assert not backoff.is_taken_over
