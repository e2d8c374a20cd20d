"""How long do people wait at a fleet of so many cards? ``python -m tests.bench.fleet_sim``.

A simulation, and no measurement: requests come at random moments (Poisson) and in bursts, as after
a show; each is an answer of so many tokens; a card that is free takes the most urgent one, and of
those the oldest. A card answers one request at a time: its time to the first token, then the rest
at its speed. Prints a table and JSON: how long requests wait until a card begins with them, and how
many cards it takes so that only so many wait longer than wanted. What is assumed stands in
``ASSUMED`` and is printed, too. ``bench_fleet_sim`` compares it with a real fleet of paced nodes.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llm.catalog.fit import card_speeds
from edge_llm.catalog.published import MODELS, PublishedModel
from tests.bench.crowd import Card, Crowd, Seconds, find_card, simulate

__all__ = ["Outcome", "Wanted", "outcomes", "size", "sizes"]

RUNS = 10
"""Independent ones; the least and the most of them say how sure a figure is."""
WARM_UP = 0.1
"""Share of a run that does not count, as it begins with nobody there."""
MOST_CARDS = 64
RATES = (5, 10, 20, 40)
BURST, BURST_OVER_S = 60, 60.0
"""What the table of sizes is for: requests per minute, and an audience that comes out."""
ASSUMED = (
    "this is a simulation, not a measurement",
    "people press independently of each other, and nobody gives up or presses again",
    "the time to the first token is the same for all prompts; long prompts and sessions take more",
    "no card is hot, paused, loading or broken; nothing is cancelled, refused or expires",
    "every card has the model that is asked for, and handing a request over takes no time",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went with so many cards; times in seconds, None where the queue only grows."""

    cards: int
    utilisation: float
    """Share of their time that the cards answer; what is asked of them, if that is 1 or more."""
    wait_s: tuple[float, float, float] | None = None
    """Until a card begins: median, 95 % and 99 %."""
    wait_95_runs_s: tuple[float, float] | None = None
    """The 95 % of the best and of the worst of the runs."""
    first_word_95_s: float | None = None
    whole_95_s: float | None = None
    """Until the last word."""
    too_late: float | None = None
    """Share that waits longer than wanted."""
    urgent_95_s: float | None = None
    """As ``wait_s``, of those that go first."""
    requests: int = 0
    """That were counted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How long most may wait."""

    wait_s: float
    share: float

    def is_met(self, outcome: Outcome) -> bool:
        """Tell whether so many did not wait longer."""
        return outcome.too_late is not None and outcome.too_late <= 1 - self.share


def size(crowd: Crowd, cards: Sequence[Card], hours: float, wanted_s: float, seed: int) -> Outcome:
    """Simulate one fleet for so many hours in all.

    Args:
        crowd: what is asked.
        cards: of the fleet, each by itself.
        hours: of all runs together.
        wanted_s: a request that waits longer is too late, in seconds.
        seed: the same one gives the same figures.
    """
    duration_s = hours * 3600 / RUNS
    runs = [_run(crowd, cards, duration_s, np.random.default_rng((seed, i))) for i in range(RUNS)]
    utilisation = float(np.mean([run.offered for run in runs]))
    count = sum(len(run.wait_s) for run in runs)
    if utilisation >= 1 or not count:
        return Outcome(len(cards), utilisation, requests=count)
    wait_s = np.concatenate([run.wait_s for run in runs])
    urgent_s = wait_s[np.concatenate([run.is_urgent for run in runs])]
    each = [_quantile(run.wait_s, 0.95) for run in runs if len(run.wait_s)]
    return Outcome(
        cards=len(cards),
        utilisation=utilisation,
        wait_s=(_quantile(wait_s, 0.5), _quantile(wait_s, 0.95), _quantile(wait_s, 0.99)),
        wait_95_runs_s=(min(each), max(each)),
        first_word_95_s=_quantile(np.concatenate([run.first_word_s for run in runs]), 0.95),
        whole_95_s=_quantile(np.concatenate([run.whole_s for run in runs]), 0.95),
        too_late=float(np.mean(wait_s > wanted_s)),
        urgent_95_s=_quantile(urgent_s, 0.95) if len(urgent_s) else None,
        requests=count,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """One simulated time, without its beginning; all of it (requests,)."""

    wait_s: Seconds
    first_word_s: Seconds
    whole_s: Seconds
    is_urgent: NDArray[np.bool_]
    offered: float


def _run(crowd: Crowd, cards: Sequence[Card], duration_s: float, dice: np.random.Generator) -> _Run:
    arrivals = crowd.arrivals(duration_s, dice)
    lengths = crowd.lengths(len(arrivals), dice)
    is_urgent = dice.random(len(arrivals)) < crowd.urgent
    services = np.array([card.service_s(lengths) for card in cards])
    # What is asked, by what cards can answer that never wait for work.
    asked = len(arrivals) / duration_s
    offered = asked / sum(1 / service.mean() for service in services) if len(arrivals) else 0.0
    if offered >= 1:
        nothing = np.empty(0)
        return _Run(nothing, nothing, nothing, np.empty(0, np.bool_), offered)
    begins, used = simulate(arrivals, services, is_urgent)
    wait_s = begins - arrivals
    ttft_s = np.array([card.ttft_s for card in cards])[used]
    whole_s = wait_s + services[used, np.arange(len(arrivals))]
    counts = arrivals >= WARM_UP * duration_s
    return _Run(
        wait_s[counts], (wait_s + ttft_s)[counts], whole_s[counts], is_urgent[counts], offered
    )


def _quantile(values: Seconds, share: float) -> float:
    return round(float(np.quantile(values, share)), 3)


def outcomes(
    crowd: Crowd, cards: Sequence[Card], wanted: Wanted, hours: float, seed: int
) -> Iterator[Outcome]:
    """Yield fleets of more and more cards of one kind, until enough wait no longer than wanted."""
    if len(cards) > 1:  # a fleet that was named card by card
        yield size(crowd, cards, hours, wanted.wait_s, seed)
        return
    for count in range(1, MOST_CARDS + 1):
        outcome = size(crowd, [cards[0]] * count, hours, wanted.wait_s, seed)
        yield outcome
        if wanted.is_met(outcome):
            return


def table(found: Sequence[Outcome], wanted_s: float) -> Iterator[str]:
    """Yield the lines of a table."""
    late = f"> {wanted_s:g} s"
    yield (
        f"{'cards':>5} {'busy':>6} {'wait, s: median':>16} {'95 %':>7} {'99 %':>7} {late:>8}"
        f" {'first word 95 %':>16} {'whole 95 %':>11}"
    )
    for one in found:
        if one.wait_s is None or one.too_late is None:
            yield f"{one.cards:5} {one.utilisation:6.0%}   too much: the queue only grows"
            continue
        median, most, nearly_all = one.wait_s
        yield (
            f"{one.cards:5} {one.utilisation:6.0%} {median:16.1f} {most:7.1f} {nearly_all:7.1f}"
            f" {one.too_late:8.1%} {one.first_word_95_s:16.1f} {one.whole_95_s:11.1f}"
        )


def sizes(
    models: Sequence[PublishedModel], crowd: Crowd, wanted: Wanted, hours: float, seed: int
) -> Iterator[str]:
    """Yield a table in Markdown: how many cards of each published model are needed."""
    crowds = {
        **{f"{rate}/min": replace(crowd, per_minute=rate, burst=0) for rate in RATES},
        f"{BURST} in {BURST_OVER_S:g} s": replace(
            crowd, per_minute=0.0, burst=BURST, burst_over_s=BURST_OVER_S
        ),
    }
    yield f"| model | one answer, s | {' | '.join(crowds)} |"
    yield f"|---|---|{'---|' * len(crowds)}"
    for model in models:
        if not card_speeds(model):
            continue
        card = find_card(model.name)
        cells = [f"{card.service_s(np.array([round(crowd.tokens)]))[0]:.1f}"]
        for one in crowds.values():
            *_, last = outcomes(one, [card], wanted, hours, seed)
            cells.append(str(last.cards) if wanted.is_met(last) else f"> {MOST_CARDS}")
        yield f"| `{card.name}` | {' | '.join(cells)} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.fleet_sim",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    crowd = Crowd()
    parser.add_argument(
        "--card",
        action="append",
        type=find_card,
        metavar="MODEL|SPEED",
        help="a published model (edge-llm model list), or tokens/s and s to the first: 15/0.4; "
        "several times: this very fleet, card by card (default: qwen3-0.6b)",
    )
    parser.add_argument(
        "--sizes", action="store_true", help="print how many cards of each published model it takes"
    )
    for name, kind, default, help_text in (
        ("per-minute", float, crowd.per_minute, "requests at random moments"),
        ("burst", int, crowd.burst, "requests more at once, as after a show"),
        ("burst-over-s", float, crowd.burst_over_s, "how long a burst takes"),
        ("burst-every-s", float, crowd.burst_every_s, "from one burst to the next"),
        ("tokens", float, crowd.tokens, "of an answer, on average"),
        ("spread", float, crowd.spread, "standard deviation of the tokens by their mean"),
        ("max-tokens", int, crowd.max_tokens, "longer answers end there"),
        ("urgent", float, crowd.urgent, "share of requests that go before all others"),
        ("wait-s", float, 10.0, "a request that waits longer is too late"),
        ("share", float, 0.95, "share of requests that are not to be too late"),
        ("hours", float, 200.0, "simulated for each number of cards"),
        ("seed", int, 1, "of the dice; the same one gives the same figures"),
    ):
        parser.add_argument(
            f"--{name}", type=kind, default=default, help=f"{help_text} (default: %(default)s)"
        )
    args = parser.parse_args()
    if args.per_minute < 0 or args.burst < 0 or args.hours <= 0 or args.burst_every_s <= 0:
        parser.error("there are no fewer requests than none, and no shorter time")
    if args.tokens < 1 or args.spread < 0 or not 0 < args.share < 1:
        parser.error("an answer has a token or more, a spread is not below 0, a share within 0..1")
    return args


def main() -> int:
    """Print the table, then the same as one line of JSON; return 1 if no number is enough."""
    args = _arguments()
    cards: list[Card] = args.card or [find_card("qwen3-0.6b")]
    names = Crowd.__dataclass_fields__
    crowd = Crowd(**{name: getattr(args, name) for name in names})
    wanted = Wanted(args.wait_s, args.share)
    if args.sizes:
        for line in sizes(MODELS, crowd, wanted, args.hours, args.seed):
            print(line, flush=True)
        return 0
    found = list(outcomes(crowd, cards, wanted, args.hours, args.seed))
    for card in dict.fromkeys(cards):
        print(
            f"{card.name}: {card.tokens_per_s:g} tokens/s after {card.ttft_s:g} s ({card.source})"
        )
    print(f"SIMULATED. {'; '.join(ASSUMED[1:])}.\n")
    print("\n".join(table(found, args.wait_s)))
    last = found[-1]
    enough = wanted.is_met(last)
    many = f"{last.cards} card{'s' if last.cards > 1 else ''}"
    goal = f"{args.share:.0%} wait no longer than {args.wait_s:g} s"
    print(f"\n{goal} with {many}" if enough else f"\nwith {many} it is not so that {goal}")
    report: dict[str, Any] = {
        "bench": "fleet_sim",
        "simulated": True,
        "assumed": ASSUMED,
        "crowd": asdict(crowd),
        "cards": [asdict(card) for card in cards],
        "wanted": asdict(wanted),
        "hours": args.hours,
        "seed": args.seed,
        "needed": last.cards if enough else None,
        "rows": [asdict(one) for one in found],
    }
    print(json.dumps(report))
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
