"""Phrases: templates with alternatives, and the many ways in which visitors type them.

A template holds alternatives in square brackets, which nest: `[hi|hello[| there]]`. A name in
braces is a field. An `Exchange` is one question with its answer and, for the thinking mode, the
thought that leads to it.
"""

import functools
import random
import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

WITHHELD_ONE_IN = 16
FEWEST_TO_WITHHOLD_FROM = 8

ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")

# fmt: off
OPENERS = (
    "hey, ",
    "hi, ",
    "hello, ",
    "ok, ",
    "okay ",
    "so, ",
    "so ",
    "um, ",
    "well, ",
    "excuse me, ",
    "sorry, ",
    "tell me, ",
    "tell me: ",
    "quick question: ",
    "I was wondering, ",
    "please, ",
    "one more thing: ",
    "listen, ",
    "now, ",
    "and ",
    "and now, ",
    "right, ",
    "alright, ",
    "oh, ",
    "good morning, ",
    "good evening, ",
    "hey you, ",
    "hello there, ",
    "hmm, ",
    "just curious, ",
    "a question: ",
    "my question is: ",
    "may I ask, ",
    "say, ",
    "dear machine, ",
    "hey there! ",
    "Hi! ",
    "Hello! ",
    "be honest, ",
    "seriously, ",
    "wait, ",
    "actually, ",
    "first of all, ",
    "could you tell me ", "can you tell me ", "would you tell me ", "I want to know: ",
    "do you happen to know ", "my son asks: ", "my daughter wonders ", "a friend asks: ",
    "everyone wonders: ", "before I go: ", "help me out: ", "for my notes: ", "out of interest, ",
    "you there, ", "come on, ", "look, ", "honestly, ", "in short: ", "in a few words, ",
    "simply put, ", "by the way, ", "I would like to know ", "just to be sure, ", "if I may ask, ",
    "let me ask you something: ",
    "I have a question. ",
    "Next question: ",
)
CLOSERS = (
    " please",
    ", please",
    ", thanks",
    " thanks",
    " then",
    ", my friend",
    ", would you",
    " if you can",
    ", if you don't mind",
    " for me",
    ", dear",
    " right now",
    ", quickly",
    " today",
    ", do you know",
    ", I wonder",
    ", go on",
    " again",
    ", pal",
    ", buddy",
    ", ok",
    ", thank you",
    ". Thank you!",
    ". I am curious.",
    ". Just wondering.",
    ". Be brief.",
)
ASIDES = (
    "I just came in from the street. ", "My daughter wants to know this. ", "We walked all day. ",
    "This room is lovely. ", "Someone told me to press this button. ", "I have never done this. ",
    "My friend sent me here. ", "It is my first time here. ", "I like the lights in here. ",
    "We only have a minute. ", "My son dared me to ask. ", "I read the sign on the wall. ",
    "There is a queue behind me. ", "I have been looking at you for a while. ", "Nice place. ",
    "What a strange machine. ", "I never talked to a thing like you. ", "The kids are excited. ",
    "It took us two hours to get here. ", "We have been reading about you. ",
    "My phone is nearly empty. ", "I forgot my glasses. ", "Let me try this. ",
    "I hope this works. ", "Can you hear me? ", "There is a small light above you. ",
    "My husband is waiting outside. ", "We are a group of students. ", "I was about to leave. ",
    "My class is visiting the museum. ",
)
FILLERS = (
    "just", "really", "maybe", "actually", "like", "kind of", "you know", "simply", "perhaps",
    "sort of", "even",
)
ONSETS = "b bl c ch d dr f fl g gr h j k l m n p pl qu r s sh sk st t th tr v w".split()
RHYMES = (
    "a ab ack ade ail ain all am an ap ar ate e ead eck een ell en er est et i ice "
    "ick ig ill in ing ip ish ist ite o oat ock old on ong ook oon op or ot ound our "
    "ow u ub uck ug um un ure ush y"
).split()
DROPPED = frozenset("a an the is are do does to of me you can for it in my".split())
SHORTHAND = (
    (r"\byou\b", "u"),
    (r"\bare\b", "r"),
    (r"\bplease\b", "pls"),
    (r"\bwhat is\b", "whats"),
    (r"\bI am\b", "im"),
    (r"\bdo not\b", "dont"),
    (r"\bthanks\b", "thx"),
    (r"\band\b", "n"),
    (r"\byour\b", "ur"),
    (r"\babout\b", "abt"),
    (r"\bbecause\b", "cause"),
)
CONTRACTIONS = (
    ("what is ", "what's "),
    ("What is ", "What's "),
    ("I am ", "I'm "),
    ("who is ", "who's "),
    ("do not ", "don't "),
    ("where is ", "where's "),
    ("cannot ", "can't "),
    ("it is ", "it's "),
    ("you are ", "you're "),
    ("that is ", "that's "),
    ("how is ", "how's "),
    ("I would ", "I'd "),
    ("you would ", "you'd "),
    ("it will ", "it'll "),
    ("I will ", "I'll "),
    ("you have got ", "you've got "),
    ("we are ", "we're "),
    ("I have ", "I've "),
)
# fmt: on


class Exchange(NamedTuple):
    """One question of the user, the answer to it, and the thought before the answer."""

    question: str
    answer: str
    thought: str


def phrasing_key(text: str) -> str:
    """Two texts have the same phrasing if this is the same: lower case, words and digits only."""
    kept = "".join(c if c.isalnum() or c.isspace() or c in "+-*/=" else "" for c in text.lower())
    return " ".join(kept.split())


def expand(rng: random.Random, template: str, **fields: str) -> str:
    """One reading of the template, its alternatives chosen and its fields filled in."""
    text = template
    while (found := ALTERNATIVES.search(text)) is not None:
        choice = rng.choice(found[1].split("|"))
        text = text[: found.start()] + choice + text[found.end() :]
    for name, value in fields.items():
        text = text.replace("{" + name + "}", value)
    return text


def is_withheld(template: str) -> bool:
    """Whether a template is kept out of the training text, to ask with it later."""
    return zlib.crc32(template.encode()) % WITHHELD_ONE_IN == 0


@functools.cache
def _taught(templates: tuple[str, ...]) -> tuple[str, ...]:
    if len(templates) < FEWEST_TO_WITHHOLD_FROM:
        return templates
    return tuple(template for template in templates if not is_withheld(template))


def pick(rng: random.Random, templates: Sequence[str], **fields: str) -> str:
    """One reading of one of the templates that are not withheld."""
    return expand(rng, rng.choice(_taught(tuple(templates))), **fields)


def capitalize(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def ask(rng: random.Random, templates: Sequence[str], **fields: str) -> str:
    """A question from the templates; now and then two that ask the same."""
    question = pick(rng, templates, **fields)
    if rng.random() < 0.10:
        again = pick(rng, templates, **fields)
        if again != question:
            joint = "" if question[-1] in "?!." else rng.choice((".", ",", " -", " and"))
            return question + joint + " " + again
    return question


def blur(rng: random.Random, text: str) -> str:
    """The text with a filler word put in, or a small word left out."""
    words = text.split(" ")
    if rng.random() < 0.7:
        filler = rng.choice(FILLERS) if rng.random() < 0.4 else unknown_word(rng)
        words.insert(rng.randrange(len(words)), filler)
        return " ".join(words)
    places = [i for i, word in enumerate(words) if word.lower() in DROPPED]
    if len(words) > 3 and places:
        del words[rng.choice(places)]
    return " ".join(words)


def unknown_word(rng: random.Random) -> str:
    """A word that nobody knows: a visitor has more words than the grammar."""
    return "".join(rng.choice(ONSETS) + rng.choice(RHYMES) for _ in range(rng.choice((1, 2, 2, 3))))


def misspell(rng: random.Random, text: str) -> str:
    """The text with one slip of the finger in a longer word."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not places:
        return text
    place = rng.choice(places)
    word = words[place]
    cut = rng.randrange(1, len(word) - 1)
    slips = (
        word[:cut] + word[cut + 1 :],
        word[:cut] + word[cut] + word[cut:],
        word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :],
    )
    words[place] = rng.choice(slips)
    return " ".join(words)


def as_typed(rng: random.Random, text: str) -> str:
    """A question as some visitor types it: polite or not, tidy or not, with a slip or without."""
    if rng.random() < 0.35:
        for long, short in CONTRACTIONS:
            text = text.replace(long, short)
    if rng.random() < 0.18:
        text = blur(rng, text)
    if rng.random() < 0.30:
        opener = rng.choice(OPENERS)
        lowered = (
            text if text.startswith(("I ", "I'", "MQTT", "AX")) else text[:1].lower() + text[1:]
        )
        text = opener + lowered
    if rng.random() < 0.15:
        end = text[-1:] if text[-1:] in "?!." else ""
        text = text.rstrip("?!.") + rng.choice(CLOSERS).rstrip(".!")
        text += end or rng.choice(("", ".", "?"))
    if rng.random() < 0.12:
        text = rng.choice(ASIDES) + capitalize(text)
    if rng.random() < 0.08:
        text = misspell(rng, text)
    return _dress(rng, text)


def _dress(rng: random.Random, text: str) -> str:
    style = rng.random()
    if style < 0.35:
        text = capitalize(text)
    elif style < 0.60:
        text = text.lower()
    elif style < 0.63:
        text = text.upper()
    if rng.random() < 0.05:
        for pattern, short in SHORTHAND:
            text = re.sub(pattern, short, text)
    ending = rng.random()
    if ending < 0.35:
        text = text.rstrip("?!.")
    elif ending < 0.40:
        text = text.rstrip("?!.") + rng.choice(("??", "!", "...", " ?", "?!"))
    return text
