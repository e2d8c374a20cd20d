"""Counting up and down, sums and differences to twenty: always right."""

import random

from edge_llm.tiny.grammar.phrase import Exchange, capitalize, pick

WORDS_SHARE = 0.42  # of sums are written in words: harder to learn than digits

# fmt: off
WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
THINGS = [
    "apples",
    "stones",
    "candles",
    "shells",
    "cats",
    "birds",
    "coins",
    "books",
    "cookies",
    "pears",
    "boats",
    "stars",
    "keys",
    "cups",
    "lamps",
    "flowers",
    "buttons",
    "balloons",
    "marbles",
    "pencils",
    "oranges",
    "bottles",
    "sweets",
    "tickets",
    "ducks",
]
ADDING = (
    "what is {a} plus {b}?", "{a} plus {b}", "{a} + {b}", "{a}+{b}", "{a} + {b} = ?", "{a}+{b}=",
    "[add|please add|add up|add together] {a} and {b}",
    "how much [is|are|makes] {a} [plus|and] {b}?",
    "what [do|does|would] {a} [and|plus] {b} [make|give|come to|equal|add up to]?",
    "[what is|tell me|calculate|give me|find|work out] the [sum|total] of {a} and {b}",
    "[calculate|compute|solve|work out|do] {a} [+|plus] {b}",
    "can you [add|sum|sum up] {a} and {b}?",
    (
        "I have {a} {things} and [get|find|buy|am given|pick up] {b} more. How many [are there|do "
        "I have|is that][| now|| in total]?"
    ),
    (
        "there are {a} {things} on [the table|a shelf] and {b} [on the floor|in a box]. how many "
        "[together|altogether|in all]?"
    ),
    "if I [put|add] {b} {things} to {a} {things}, how many [do I have|are there]?",
    (
        "[my sister|my friend|Tom|Anna] has {a} {things} and I have {b}. how many do we have "
        "[together|altogether|in total]?"
    ),
    "{a} {things} and {b} {things}, how many is that?",
    "do you know [what|how much] {a} plus {b} is?",
    "[I need to know|tell me|say] [what|how much] {a} [and|plus] {b} [is|makes|gives]",
    "what do you get [if|when] you add {b} to {a}?", "add {b} to {a}",
    "{a} and {b} [make|makes|is|gives] what?", "[math|maths|quick math|a sum]: {a} plus {b}",
    "what number is {a} plus {b}?", "the result of {a} plus {b}?", "{a} plus {b} equals[| what]?",
    "{a}+{b} equals [what|?]", "help me [add|with] {a} plus {b}",
    "[please |]help me add {a} [and|to] {b}", "what does {a} plus {b} result in?",
    "count {a} and {b} together", "{a} more than {b} is [what|how much]?",
    (
        "[grandma|my uncle|a man] gave me {a} {things} and [grandpa|my aunt|a girl] gave me {b}. "
        "how many {things} do I have?"
    ),
    (
        "in one [bag|box|basket] are {a} {things}, in [another|the other] {b}. how many [all "
        "together|in all|in total]?"
    ),
    "{a} plus {b}, [the answer|the result|what do you say|easy]?",
    "[my teacher asks|the exercise says|I have to solve|homework]: {a} plus {b}",
    (
        "I [found|bought] {a} {things} [on Monday|yesterday] and {b} [on Tuesday|today]. how many "
        "{things}[| do I have]?"
    ),
    "how much do {a} and {b} make[| together]?", "{a} and {b} together?",
    "[first|we had|we saw] {a} {things}, then {b} more [came|arrived]. how many now?",
    "put {a} and {b} together, what [comes out|is it|do you get]?",
    "adding {a} [and|to] {b}, what [is it|comes out|do we get|would that be]?",
    "[when|if] [you have|I have|you've got|there are] {a} and {b}, how many [is that|are those]?",
    "{a} and another {b}, [how many|how much] [is|makes|would] that[| be]?",
    "[say|suppose|imagine] I take {a} and then {b} more, what have I got?",
    "let's add {a} and {b}", "so {a} plus {b} would be?", "is it hard to add {a} and {b}?",
    "{a}, plus {b}, is what?", "[plus task|sum]: {a}, {b}", "the sum of {a} and {b}, please",
)
TAKING = (
    "what is {a} minus {b}?", "{a} minus {b}", "{a} - {b}", "{a}-{b}", "{a} - {b} = ?", "{a}-{b}=",
    "[take|subtract|remove] {b} from {a}", "how much is {a} [minus|less|take away] {b}?",
    "[calculate|compute|solve|work out] {a} [-|minus] {b}", "{a} take away {b}", "{a} less {b}",
    "[what is|tell me|find] the difference between {a} and {b}", "can you subtract {b} from {a}?",
    (
        "I have {a} {things} and [lose|eat|give away|drop|sell|break] {b}. How many are [left|"
        "there now]?"
    ),
    (
        "if I [take|give away|lose] {b} of my {a} {things}, how many [remain|are left|do I still "
        "have]?"
    ),
    "there were {a} {things} and {b} [are gone|fell down|disappeared]. how many [are left|stay]?",
    "what do you get [if|when] you take {b} [away from|from|out of] {a}?",
    "what remains of {a} without {b}?",
    "[I had|we had|she had] {a} {things}, {b} [were stolen|got lost|broke]. how many now?",
    "what [is left|remains|stays] [if|when] I take {b} [from|off] {a}?",
    "do you know what {a} minus {b} is?", "the result of {a} minus {b}?",
    "{a} minus {b} equals[| what]?", "help me [with|solve] {a} minus {b}",
    "what does {a} minus {b} result in?",
    "[my teacher asks|the exercise says|I have to solve|homework]: {a} minus {b}",
    "from {a} {things} I lose {b}. how many [stay|are left]?",
    (
        "{b} of the {a} {things} [break|disappear|roll away|are sold]. how many [are left|remain|"
        "do we keep]?"
    ),
    "{a} minus {b}, [the answer|the result|what do you say|easy]?",
    "[she|Tom|Anna] had {a} {things} and gave me {b}. how many does [she|Tom|Anna] [have|keep]?",
    "{b} less than {a} is [what|how much]?", "if {b} is taken from {a}, what [remains|is left]?",
    "how much do I have left when I spend {b} of {a} [coins|euros]?",
    "how many {things} [are left|remain] if {b} of {a} [fly away|go missing|are eaten]?",
    "subtract {b} from {a}, what [is it|comes out|do you get|remains]?",
    "taking {b} [away from|from|off] {a}, what [is left|do I get|would that be]?",
    "if I subtract {b} from {a}, what [is it|do I get|would that be]?",
    "you have {a} and [give me|lose|drop] {b}, [what is left|how many stay]?",
    "[say|suppose|imagine] I take {b} away from {a}, what have I got?",
    "so {a} minus {b} would be?", "{a}, minus {b}, is what?", "the difference of {a} and {b}",
)
COUNT_RANGE = (
    "count from {a} to {b}", "can you count from {a} to {b}?", "[count|number] {a} to {b}",
    (
        "[list|say|name|give me|write|tell me] [the|all the] numbers [from|between] {a} [to|and|"
        "up to] {b}"
    ),
    "start at {a} and count [up |]to {b}", "numbers {a} to {b}",
    "[go|run|step] from {a} to {b} [one by one|in steps of one]",
    "[begin|start] [with|at|from] {a}, [stop|end|finish] [at|with] {b}",
    "count [for me|out loud|slowly] from {a} to {b}", "I want to hear you count from {a} to {b}",
    "which numbers [are there|come|go] from {a} to {b}?", "let us count from {a} up to {b}",
    "would you count [up|] from {a} till {b}?", "[practise|try] counting from {a} to {b}",
    "counting, [from |]{a} to {b}", "say {a}, and go on until {b}",
    "I need every number from {a} to {b}", "which numbers are between {a} and {b}, both included?",
    "[my son|my daughter|the class] wants to hear {a} to {b}", "please number off from {a} to {b}",
    "from {a} [up |on ]to {b}, count",
)
COUNT_TO = (
    "count to {b}", "can you count to {b}?", "count up to {b}", "please count to {b}",
    "can you count till {b}?",
    "[say|list|give me|name|tell me] the [first {b} numbers|numbers up to {b}]",
    "count from one to {b}", "show me [that|how] you can count to {b}", "how do you count to {b}?",
    "let us count to {b}", "I bet you cannot count to {b}",
    "count [for me|out loud|slowly|a little], to {b}", "do you count? up to {b}",
    "could you [count|go] all the way to {b}?", "teach me to count to {b}",
    "let me hear you count to {b}", "counting to {b}",
    "[my son|my daughter|the class|my friend] wants you to count to {b}", "numbers up to {b}",
    "count the [stars|sheep|steps] up to {b}", "count all the way up to {b}",
    "say every number up to {b}", "we count to {b}, you begin", "try counting to {b}",
)
COUNT_DOWN = (
    "count [down|backwards|back] from {b}", "[a|do a|give me a|start a] countdown from {b}",
    "can you count [down|backwards|back] from {b}?", "count [down|backwards] from {b} to 1",
    "[say|list|give me] the numbers from {b} [down|back] to 1", "{b} to 1, backwards",
    "[start|begin] [at|from|with] {b} and [count|go] [down|backwards]",
    "countdown, starting at {b}", "count [in reverse|the other way] from {b}",
    "rocket launch! count down from {b}", "go backwards from {b}",
    "reverse counting from {b} [please|now]", "from {b} [back|down] to one",
    "[do|make|give us|let us do] the countdown from {b}", "countdown [from |]{b}",
    "the rocket starts, count down from {b}", "from {b}, [backwards|downwards|in reverse]",
    "try counting [backwards|down] from {b}", "new year is coming! countdown from {b}",
    "count backwards[, beginning| beginning] with {b}",
)
AFTER = (
    "what [comes|number comes|number is] after {a}?",
    "which number follows {a}?",
    "what is one more than {a}?",
    "[the next number after|next after] {a}?",
    "I am at {a}, what is next?",
    "the number after {a}",
    "[I count|we count|my son counts] and say {a}, which number do [I|we|you] say next?",
    "which number [comes|is|stands] [right|just|directly] [after|behind] {a}?",
    "what do [you|I|we] say after {a} when counting?",
    "{a}, and then[| comes which number| what]?",
    "[go on|continue] after {a} by one",
    "what number do I reach one step after {a}?",
    "tell me the number that follows {a}",
    "what is the [successor of|number following] {a}?",
    "I counted up to {a}, which one is next?",
)
BEFORE = (
    "what [comes|number comes|number is] before {a}?",
    "what is one less than {a}?",
    "the number before {a}",
    "which number [comes|is|stands] [right|just] before {a}?",
    "what precedes {a}?",
    "tell me the number [just |]before {a}",
    "which number is one smaller than {a}?",
    "what is the predecessor of {a}?",
    "what number do I say before {a}?",
    "counting, what comes one before {a}?",
    "one step back from {a} is which number?",
)
# fmt: on


def _numerals(in_words: bool, *numbers: int) -> list[str]:
    return [WORDS[n] if in_words else str(n) for n in numbers]


def sum_of_two(rng: random.Random) -> Exchange:
    """A sum whose result is at most twenty."""
    total = rng.randint(0, 20)
    a = rng.randint(0, total)
    b = total - a
    words = rng.random() < WORDS_SHARE
    x, y = _numerals(words, a, b)
    question = pick(rng, ADDING, a=x, b=y, things=rng.choice(THINGS))
    fields = {"a": x, "b": y, "c": WORDS[total] if words else str(total)}
    answers = (
        "{a} plus {b} is {c}.",
        "{a} and {b} make {c}.",
        "{a} plus {b} makes {c}.",
        "That is {c}: {a} plus {b} is {c}.",
    )
    symbols = ("{a} + {b} = {c}.", "{a} + {b} = {c}.", "That makes {c}: {a} + {b} = {c}.")
    answer = pick(rng, answers if words else answers + symbols, **fields)
    return Exchange(question, capitalize(answer), f"Add {a} and {b}: {a} + {b} = {total}.")


def difference(rng: random.Random) -> Exchange:
    """A difference of two numbers up to twenty, never below zero."""
    a = rng.randint(0, 20)
    b = rng.randint(0, a)
    words = rng.random() < WORDS_SHARE
    x, y = _numerals(words, a, b)
    question = pick(rng, TAKING, a=x, b=y, things=rng.choice(THINGS))
    fields = {"a": x, "b": y, "c": WORDS[a - b] if words else str(a - b)}
    answers = (
        "{a} minus {b} is {c}.",
        "{a} take away {b} leaves {c}.",
        "{a} minus {b} leaves {c}.",
    )
    symbols = ("{a} - {b} = {c}.", "{a} - {b} = {c}.", "That leaves {c}: {a} - {b} = {c}.")
    answer = pick(rng, answers if words else answers + symbols, **fields)
    return Exchange(question, capitalize(answer), f"Take {b} from {a}: {a} - {b} = {a - b}.")


def count_up(rng: random.Random) -> Exchange:
    """Counting from one number, often one, to a larger one."""
    start = 1 if rng.random() < 0.45 else rng.randint(0, 17)
    stop = rng.randint(start + 2, 20)
    x, y = _numerals(rng.random() < 0.3, start, stop)
    question = pick(rng, COUNT_TO if start == 1 and rng.random() < 0.7 else COUNT_RANGE, a=x, b=y)
    return Exchange(
        question, _row(rng, range(start, stop + 1)), f"Start at {start}, stop at {stop}."
    )


def count_down(rng: random.Random) -> Exchange:
    """Counting down to one."""
    start = rng.randint(3, 20)
    if rng.random() < 0.3 and start > 4:
        stop = rng.randint(2, start - 2)
        x, y = _numerals(rng.random() < 0.3, start, stop)
        question = pick(
            rng,
            (
                "count [down|backwards|back] from {a} to {b}",
                "go [down|back|backwards] from {a} to {b}",
                "[start|begin] at {a} and count [down|backwards] to {b}",
                "numbers from {a} down to {b}",
                "can you count backwards, {a} to {b}?",
                "from {a} [back|down] to {b}, please",
            ),
            a=x,
            b=y,
        )
        row = _row(rng, range(start, stop - 1, -1))
        return Exchange(question, row, f"Go down from {start} to {stop}.")
    (x,) = _numerals(rng.random() < 0.3, start)
    question = pick(rng, COUNT_DOWN, b=x)
    return Exchange(question, _row(rng, range(start, 0, -1)), f"Go down from {start} to 1.")


def _row(rng: random.Random, numbers: range) -> str:
    row = ", ".join(str(n) for n in numbers)
    return rng.choice((row + ".", row + ".", row + ".", "Here I go: " + row + "."))


def neighbour(rng: random.Random) -> Exchange:
    """The number after or before another."""
    words = rng.random() < WORDS_SHARE
    if rng.random() < 0.5:
        a = rng.randint(0, 19)
        x, y = _numerals(words, a, a + 1)
        answer = pick(rng, ("After {a} comes {b}.", "{b} comes after {a}."), a=x, b=y)
        return Exchange(pick(rng, AFTER, a=x), capitalize(answer), f"One more than {a} is {a + 1}.")
    a = rng.randint(1, 20)
    x, y = _numerals(words, a, a - 1)
    answer = pick(rng, ("Before {a} comes {b}.", "{b} comes before {a}."), a=x, b=y)
    return Exchange(pick(rng, BEFORE, a=x), capitalize(answer), f"One less than {a} is {a - 1}.")
