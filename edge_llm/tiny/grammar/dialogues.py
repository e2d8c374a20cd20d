"""Whole dialogues: a system prompt or none, and turns from all subjects.

A dialogue is a list of messages as in a chat request. The last message is the assistant's; its
`reasoning_content` is there if the dialogue is one of the thinking mode.
"""

import random
from collections.abc import Callable, Iterator

from edge_llm.tiny.grammar import (
    feelings,
    identity,
    numbers,
    off_topic,
    personas,
    service,
    small_talk,
    verse,
    world,
)
from edge_llm.tiny.grammar.characters import Character, character
from edge_llm.tiny.grammar.phrase import Exchange, as_typed, pick

Message = dict[str, str]

PLAIN_OPENINGS = tuple("Hello;Hi;Good to see;I am;Very well;All is;Goodbye;See;Fare;Bye".split(";"))

THINKING_SHARE = 0.12
# fmt: off
SUBJECTS: tuple[tuple[Callable[[random.Random], Exchange], float], ...] = (
    (numbers.sum_of_two, 13.0),
    (numbers.difference, 9.0),
    (numbers.count_up, 8.0),
    (numbers.count_down, 4.0),
    (numbers.neighbour, 3.0),
    (feelings.feeling, 8.0),
    (world.colour, 8.0),
    (world.weather, 6.0),
    (verse.poem, 8.0),
    (verse.fortune, 5.0),
    (service.service, 15.0),
    (off_topic.off_topic, 8.0),
    (small_talk.talk, 9.0),
    (small_talk.favourite, 3.0),
)
REPEAT = (
    "say that again", "repeat that", "can you repeat that?", "what did you say?", "pardon?",
    "sorry?", "once again, I did not hear you", "I did not catch that", "please say it once more",
    "could you repeat your answer?", "come again?", "I did not understand, say it again",
    "I could not hear you", "it was too loud, what did you say?", "one more time, please",
    "again please, I was not listening", "what was that?", "sorry, what?", "you said what?",
)
# fmt: on


def make_dialogues(seed: int, count: int, long_share: float = 0.0) -> Iterator[list[Message]]:
    """Dialogues of one to five turns; `long_share` of them go on for a page or two.

    The same seed and count give the same dialogues on every machine.
    """
    rng = random.Random(seed)
    for _ in range(count):
        num_turns = rng.choices((1, 2, 3, 4, 5), (60, 18, 10, 7, 5))[0]
        if rng.random() < long_share:
            num_turns = rng.randint(8, 26)
        kind = rng.random()
        if kind < 0.32:
            yield _persona_dialogue(rng, num_turns)
        elif kind < 0.50:
            yield _dialogue(rng, personas.plain_system(rng), _turns(rng, num_turns, None))
        else:
            yield _dialogue(rng, None, _turns(rng, num_turns, None))


def _persona_dialogue(rng: random.Random, num_turns: int) -> list[Message]:
    who = character(rng)
    return _dialogue(rng, personas.system_prompt(rng, who), _turns(rng, num_turns, who))


def _turns(rng: random.Random, num_turns: int, who: Character | None) -> list[Exchange]:
    turns: list[Exchange] = []
    name: str | None = None
    while len(turns) < num_turns:
        chance = rng.random()
        if num_turns > 1 and chance < 0.12:
            name, told = _names(rng, name)
            turns.append(told)
        elif num_turns > 1 and chance < 0.20:
            turns.extend(verse.encore(rng))
        elif turns and chance < 0.24:
            turns.append(Exchange(pick(rng, REPEAT), turns[-1].answer, "Say the same again."))
        elif turns and chance < 0.28:
            questions, answers, thought = small_talk.TALK["thanks"]
            turns.append(Exchange(pick(rng, questions), pick(rng, answers), thought))
        else:
            turns.append(_one(rng, who))
    return turns


def _names(rng: random.Random, name: str | None) -> tuple[str | None, Exchange]:
    if name is None and rng.random() < 0.75:
        name = small_talk.human_name(rng)
        return name, small_talk.name_told(rng, name)
    return name, small_talk.name_asked(rng, name)


def _one(rng: random.Random, who: Character | None) -> Exchange:
    chance = rng.random()
    if who is not None:
        if chance < 0.72:
            return personas.in_character(rng, who)
        if chance < 0.80:
            return identity.which_model(rng)
    elif chance < 0.14:
        return identity.identity(rng)
    while True:
        make = rng.choices([f for f, _ in SUBJECTS], [w for _, w in SUBJECTS])[0]
        exchange = make(rng)
        if who is None or make is not small_talk.talk or not _about_self(exchange):
            return exchange


def _about_self(exchange: Exchange) -> bool:
    """Whether a character has an answer of its own, so that the plain one would be wrong."""
    return exchange.answer.startswith(PLAIN_OPENINGS)


def _dialogue(rng: random.Random, system: str | None, turns: list[Exchange]) -> list[Message]:
    messages: list[Message] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    for turn in turns:
        messages.append({"role": "user", "content": as_typed(rng, turn.question)})
        messages.append({"role": "assistant", "content": turn.answer})
    if rng.random() < THINKING_SHARE:
        messages[-1]["reasoning_content"] = turns[-1].thought
    return messages
