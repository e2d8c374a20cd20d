"""Make ``tiny_withheld.jsonl``: questions in a phrasing that the built-in model has never read.

Run from the top of the checkout::

    PYTHONPATH=. python tests/data/make_withheld.py

The grammar of the training text keeps one in sixteen of its templates back. Here its functions draw
from all templates, and an exchange is kept if its whole question is one reading of a template that
is kept back, its answer is not, and the training text does not happen to ask the same in another
way. The form of the file is that of ``tiny_held_out.jsonl``, which is written by hand::

    {"id": ..., "subject": ..., "messages": [...], "must": [[alternative, ...], ...]}

What a reply must contain is computed. It is the result, the numbers, the colour, the fact or the
name where the question asks for one. Where the grammar answers with one of a few templates, it is
a clause of each that the answers to other questions do not have. The script checks both sides:
other answers to the same question pass, and of those to other questions few do.
"""

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from edge_llm.tiny.grammar import (
    feelings,
    identity,
    numbers,
    off_topic,
    personas,
    phrase,
    phrasing_key,
    service,
    small_talk,
    verse,
    world,
)
from edge_llm.tiny.grammar.characters import KNOWN, WISDOM, Character, character
from edge_llm.tiny.grammar.phrase import Exchange
from edge_llm.tiny.recipe import training_dialogues

Must = list[list[str]]
Maker = Callable[[random.Random], Exchange]

OUT = Path(__file__).parent / "tiny_withheld.jsonl"
SEED = 1
NUM_DRAWS = 6_000  # for each subject; few of them have a question that is kept back
MOST_PER_TEMPLATE = 3
SHORTEST_WORD = 4  # letters: "cat" is in "catch" and "art" in "heart"
MOST_PASSING = 0.02
MOST_SHARED = 0.005  # of all answers; a clause in more of them than that tells nothing
NUM_OTHERS = 20

MAKERS: dict[str, tuple[int, tuple[Maker, ...]]] = {
    "persona": (12, ()),
    "sums": (9, (numbers.sum_of_two, numbers.difference)),
    "counting": (8, (numbers.count_up, numbers.count_down, numbers.neighbour)),
    "edge-llm": (18, (service.service,)),
    "identity": (8, (identity.identity, identity.which_model)),
    "poems": (5, (verse.poem,)),
    "fortunes": (4, (verse.fortune,)),
    "colours": (8, (world.colour,)),
    "weather": (7, (world.weather,)),
    "feelings": (8, (feelings.feeling,)),
    "small talk": (8, (small_talk.talk, small_talk.favourite)),
    "off-topic": (5, (off_topic.off_topic,)),
}
RESULT = ("is {c}.", "= {c}.", "make {c}.", "makes {c}.", "leaves {c}.")
NEXT = ("comes {c}.", "{c} comes ")
COLOUR = ("is {c}.", "usually {c}.", "{c}. I like that colour", "{c}. A fine colour")
MIX = ("make {c}.", "get {c}.", "gives {c}.")
OPPOSITE = ("is {b}.", "opposite of {b}.", "{b} is the opposite")
NAMED = re.compile(r"llm/|edge-llm (serve|demo|ask)|\w_\w")
"""A topic, a command or a variable: the clause with it is the one that answers."""
WHO_OR_MODEL = identity.SELF + identity.SAY_MODEL


class Reading(NamedTuple):
    """A template that was read, and the templates it was chosen from."""

    templates: tuple[str, ...]
    template: str
    fields: dict[str, str]
    text: str

    @property
    def is_withheld(self) -> bool:
        many = len(self.templates) >= phrase.FEWEST_TO_WITHHOLD_FROM
        return many and phrase.is_withheld(self.template)


class Draw(NamedTuple):
    """An exchange, the templates it is made of, and who answers."""

    subject: str
    exchange: Exchange
    readings: tuple[Reading, ...]
    who: Character | None

    def question(self) -> Reading | None:
        """The template kept back whose reading is the whole question."""
        asked = self.exchange.question
        return next((r for r in self.readings if r.is_withheld and r.text == asked), None)

    def answer(self) -> Reading | None:
        """The template of the answer; none if it was not chosen from templates."""
        said = self.exchange.answer.lower()
        return next((r for r in self.readings if said.endswith(r.text.lower())), None)

    def replies(self) -> tuple[str, ...]:
        """The templates of all answers to this question; `()` if there are none."""
        if self.exchange.thought.startswith("They ask for my favourite "):
            return small_talk.FAVOURITE[self.exchange.thought[26:-1]]
        answer = self.answer()
        templates = answer.templates if answer else ()
        return WHO_OR_MODEL if templates in (identity.SELF, identity.SAY_MODEL) else templates


class Case(NamedTuple):
    """One prompt to be written, and the draw it comes from."""

    draw: Draw
    template: str
    typed: str
    must: Must


@contextmanager
def recorded(readings: list[Reading], *, withheld_too: bool) -> Iterator[None]:
    """The grammar draws with or without what is kept back, and writes down what it reads."""
    taught, expand = phrase._taught, phrase.expand
    chosen_from: list[tuple[str, ...]] = [()]

    def choose_from(templates: tuple[str, ...]) -> tuple[str, ...]:
        chosen_from[0] = templates
        return templates if withheld_too else taught(templates)

    def read(rng: random.Random, template: str, **fields: str) -> str:
        text = expand(rng, template, **fields)
        readings.append(Reading(chosen_from[0], template, fields, text))
        return text

    with patch.object(phrase, "_taught", choose_from), patch.object(phrase, "expand", read):
        yield


def draw(
    rng: random.Random, subject: str, *, withheld_too: bool, who: Character | None = None
) -> Draw:
    if subject == "persona" and who is None:
        who = character(rng)
    readings: list[Reading] = []
    with recorded(readings, withheld_too=withheld_too):
        if who is None:
            exchange = rng.choice(MAKERS[subject][1])(rng)
        else:
            exchange = personas.in_character(rng, who)
    return Draw(subject, exchange, tuple(readings), who)


def any_draws(rng: random.Random, count: int) -> list[Draw]:
    return [draw(rng, rng.choice(list(MAKERS)), withheld_too=False) for _ in range(count)]


def passes(answer: str, must: Must) -> bool:
    return all(any(word.lower() in answer.lower() for word in words) for words in must)


class Musts:
    """What a reply must contain, given how other questions are answered."""

    def __init__(self, known: list[Draw]) -> None:
        self._known = [(d.replies(), d.exchange.answer.lower()) for d in known]
        self._clauses: dict[tuple[str, ...], list[str]] = {}

    def of(self, drawn: Draw) -> Must | None:
        """None if the grammar's answers have no word that tells them from others."""
        if drawn.who is not None:
            return self._of_persona(drawn, drawn.who)
        if drawn.subject in COMPUTED:
            return COMPUTED[drawn.subject](drawn)
        if drawn.replies() == identity.SAY_SIZE:
            return [["three million"]]
        return [self.clauses(drawn.replies())]

    def clauses(self, replies: tuple[str, ...]) -> list[str]:
        """Of each template of an answer a clause that hardly any other question gets."""
        if replies not in self._clauses:
            found = (clause for reply in replies for clause in self._clauses_of(reply, replies))
            self._clauses[replies] = list({clause.lower(): clause for clause in found}.values())
        return self._clauses[replies]

    def _clauses_of(self, reply: str, replies: tuple[str, ...]) -> list[str]:
        fixed = [part.strip() for part in re.split(r"\[[^\]]*\]", reply)]
        split = [c.strip(" .,;:!?") for part in fixed for c in re.split(r"[.,;:!?]+\s", part)]
        for clauses in ([re.sub("^(and|or|but) ", "", c) for c in split], fixed):
            ranked = []
            for clause in clauses:
                shared = sum(clause.lower() in said for own, said in self._known if own != replies)
                named = NAMED.search(clause) is not None
                if (named or clause.count(" ") >= 2) and shared <= MOST_SHARED * len(self._known):
                    ranked.append((not named, shared if named else 0, -len(clause), clause))
            if ranked:
                return [min(ranked)[-1]]
        found = phrase.ALTERNATIVES.search(reply)
        if found is None:
            return [reply]
        readings = (reply[: found.start()] + c + reply[found.end() :] for c in found[1].split("|"))
        return [clause for reading in readings for clause in self._clauses_of(reading, replies)]

    def _of_persona(self, drawn: Draw, who: Character) -> Must | None:
        asked = next(r for r in drawn.readings if r.templates == personas.WHO or _about(r))
        key = _about(asked)
        if key is None:
            word = who.name if who.name and "name" in asked.template else who.kind
            return [[word]] if len(word) >= SHORTEST_WORD else None
        if key in ("home", "task", "thought", "love"):
            return [[getattr(who, key)]]
        if key == "wisdom":
            return [[who.wisdom] if who.kind in {kind for kind, *_ in KNOWN} else list(WISDOM)]
        filled = tuple(_filled(reply, asked.fields) for reply in personas.ABOUT[key][1])
        return [self.clauses(filled)]


def _filled(reply: str, fields: dict[str, str]) -> str:
    return re.sub(r"{(\w+)}", lambda name: fields[name[1]], reply)


def _about(reading: Reading) -> str | None:
    asked = reading.templates
    return next((key for key, (known, *_) in personas.ABOUT.items() if known == asked), None)


def _of_numbers(drawn: Draw) -> Must:
    thought = drawn.exchange.thought
    found = [int(number) for number in re.findall(r"\d+", thought)]
    first, second = found[-3:-1] if "=" in thought else found
    if thought.startswith(("Start", "Go down")):
        step = 1 if second > first else -1
        return [[", ".join(map(str, range(first, second + step, step))) + "."]]
    forms: tuple[str, ...] = RESULT
    if thought.startswith("One"):
        result, forms = second, NEXT
    else:
        result = first + second if "+" in thought else first - second
    written = (str(result), numbers.WORDS[result])
    return [[form.format(c=c) for c in written for form in forms]]


def _of_colours(drawn: Draw) -> Must:
    answer = drawn.answer()
    fields = answer.fields if answer else {}
    forms = COLOUR if "T" in fields else MIX if "c" in fields else OPPOSITE
    return [[form.format(**fields) for form in forms]]


def _of_poem(drawn: Draw) -> Must | None:
    found = re.match(r"A poem of two lines about (.*), with a rhyme\.", drawn.exchange.thought)
    if found is None:
        return [["\n"]]  # no subject: any poem, and nothing else has two lines
    word = found[1].split()[-1]
    verses = [text for name, own in verse.POEMS.items() if found[1] == name for text in own]
    told = all(word.lower() in text.lower() for text in verses)
    return [[word]] if told and len(word) >= SHORTEST_WORD else None


def _of_feeling(drawn: Draw) -> Must:
    replies = drawn.replies()
    name = next(name for name, (*_, said) in feelings.FEELINGS.items() if said == replies)
    return [["excit" if name == "excited" else name]]  # "How exciting!"


COMPUTED: dict[str, Callable[[Draw], Must | None]] = {
    "sums": _of_numbers,
    "counting": _of_numbers,
    "colours": _of_colours,
    "poems": _of_poem,
    "feelings": _of_feeling,
}


def as_plainly_typed(rng: random.Random, question: str) -> str:
    """The question, with a capital or not, with its question mark or without."""
    if rng.random() < 0.5:
        question = phrase.capitalize(question)
    return question.rstrip("?") if rng.random() < 0.35 else question


def candidates(subject: str, musts: Musts, trained: set[str]) -> dict[str, list[Case]]:
    """Cases of a subject by the template of their question."""
    rng = random.Random(f"{SEED} {subject}")
    found: dict[str, list[Case]] = defaultdict(list)
    asked_before = set(trained)
    for _ in range(NUM_DRAWS):
        drawn = draw(rng, subject, withheld_too=True)
        question, answer = drawn.question(), drawn.answer()
        if question is None or (answer is not None and answer.is_withheld):
            continue
        if " " in question.fields.get("w", ""):
            continue  # "the news makes me over the moon"
        typed = as_plainly_typed(rng, question.text)
        key = phrasing_key(typed)
        must = musts.of(drawn)
        if key not in asked_before and must is not None:
            asked_before.add(key)
            found[question.template].append(Case(drawn, question.template, typed, must))
    return found


def choose(by_template: dict[str, list[Case]], count: int) -> list[Case]:
    """From each template one, then from each a second and a third, up to the count."""
    rounds = [
        cases[turn]
        for turn in range(MOST_PER_TEMPLATE)
        for cases in by_template.values()
        if turn < len(cases)
    ]
    return rounds[:count]


def check_that_others_pass(case: Case, musts: Musts) -> None:
    """Its own answer has what it must, and so have others to the same question."""
    if not passes(case.draw.exchange.answer, case.must):
        raise SystemExit(f"its own answer does not pass: {case}")
    rng = random.Random(SEED)
    left = NUM_OTHERS
    while left:
        other = draw(rng, case.draw.subject, withheld_too=False, who=case.draw.who)
        if musts.of(other) == case.must:
            left -= 1
            if not passes(other.exchange.answer, case.must):
                raise SystemExit(f"{other.exchange.answer!r} does not pass: {case}")


def cross_rates(cases: list[Case], musts: Musts) -> list[float]:
    """For each case, the share of answers to other questions that would pass."""
    rng = random.Random(SEED + 1)
    known = [(musts.of(drawn), drawn.exchange.answer) for drawn in any_draws(rng, 2_000)]
    others = [[answer for must, answer in known if must != case.must] for case in cases]
    return [
        sum(passes(answer, case.must) for answer in answers) / len(answers)
        for case, answers in zip(cases, others, strict=True)
    ]


def write(cases: list[Case]) -> None:
    rng = random.Random(SEED)
    counts: Counter[str] = Counter()
    lines = []
    for case in cases:
        subject = case.draw.subject
        counts[subject] += 1
        messages = [{"role": "user", "content": case.typed}]
        if case.draw.who is not None:
            system = personas.system_prompt(rng, case.draw.who)
            messages.insert(0, {"role": "system", "content": system})
        name = f"withheld-{subject.replace(' ', '-')}-{counts[subject]}"
        line = {"id": name, "subject": subject, "messages": messages, "must": case.must}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    OUT.write_text("".join(lines), encoding="utf-8")


def training_keys() -> set[str]:
    return {
        phrasing_key(message["content"])
        for dialogue in training_dialogues()
        for message in dialogue
        if message["role"] == "user"
    }


def main() -> None:
    trained = training_keys()
    musts = Musts(any_draws(random.Random(SEED), 4_000))
    cases: list[Case] = []
    for subject, (count, _) in MAKERS.items():
        found = candidates(subject, musts, trained)
        chosen = choose(found, count)
        cases += chosen
        print(f"{subject}: {len(chosen)} prompts, {len(found)} templates there are")
    for case in cases:
        check_that_others_pass(case, musts)
    rates = cross_rates(cases, musts)
    mean = sum(rates) / len(rates)
    print(f"cross test: {mean:.2%} on average, {max(rates):.2%} at most")
    if mean > MOST_PASSING or len(cases) != 100:
        raise SystemExit("not a hundred, or too many answers pass")
    write(cases)
    print(f"{len(cases)} prompts of {len({case.template for case in cases})} templates")


if __name__ == "__main__":
    main()
