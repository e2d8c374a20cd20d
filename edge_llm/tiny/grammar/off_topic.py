"""Questions beyond the built-in model, and its honest answer that it is too small for them."""

import random

from edge_llm.tiny.grammar.phrase import Exchange, pick

# fmt: off
COUNTRIES = (
    "France Spain Japan Germany Italy Brazil Kenya India Canada Mexico Norway Egypt China Peru "
    "Poland Greece Turkey Austria Sweden Chile Australia Portugal Ireland Nigeria Thailand Cuba "
    "Iceland Finland"
).split()
PEOPLE = (
    "Napoleon;Einstein;Mozart;Shakespeare;Cleopatra;Darwin;Picasso;Gandhi;Marie Curie;Beethoven;"
    "Columbus;Newton;Frida Kahlo;Van Gogh;Bach;Lincoln;Julius Caesar;Galileo;Goethe;Plato;Elvis;"
    "Queen Victoria;Aristotle;Rembrandt"
).split(";")
EVENTS = (
    "the second world war;the first moon landing;the French revolution;the fall of Rome;the "
    "Berlin wall;the ice age;the gold rush;the Renaissance;the industrial revolution;the cold war;"
    "the Roman empire;the stone age;the Titanic"
).split(";")
CODE = "Python;JavaScript;C++;Java;Rust;HTML;SQL;bash;Go;PHP".split(";")
SCIENCE = (
    "photosynthesis;gravity;black holes;quantum physics;DNA;evolution;atoms;electrons;magnetism;"
    "volcanoes;dinosaurs;the brain;vaccines;relativity;chemistry;economics;inflation;philosophy;"
    "algebra;the stock market;bitcoin;democracy;politics;nuclear power;machine learning;genetics;"
    "the immune system"
).split(";")
DISHES = (
    "pizza;soup;bread;pancakes;curry;pasta;cake;sushi;lasagna;cookies;goulash;a salad;risotto;"
    "tacos"
).split(";")
LANGUAGES = (
    "French;German;Spanish;Italian;Japanese;Latin;Chinese;Greek;Polish;Turkish;Dutch;Arabic"
).split(";")

ASK = (
    "what is the capital [city |]of {country}?", "[capital of|the capital of] {country}",
    "which city is the capital of {country}?", "how many people live in {country}?",
    "where is {country}?", "who [rules|governs|is the president of|is the king of] {country}?",
    "what language do they speak in {country}?", "tell me about {country}",
    "what is the [largest|biggest|oldest] city [in|of] {country}?",
    "name the capital of {country}", "how [big|far away] is {country}?",
    "is {country} a [big|rich|cold] country?", "which [river|mountain|sea] is in {country}?",
    "what is the population of {country}?", "[do you know|know] the capital of {country}?",
    "who was {person}?", "when [was|did] {person} [born|die]?", "tell me about {person}",
    "what did {person} [do|discover|write|paint|invent]?", "where was {person} born?",
    "who is {person}?", "what is {person} famous for?", "how old [was|is] {person}?",
    "give me a biography of {person}", "when was {event}?", "what happened in {event}?",
    "tell me about {event}", "in which year [was|did] {event} [happen|begin|end]?",
    "why did {event} happen?", "[explain|summarize] {event}",
    "who [won|started|lived in] {event}?", "how did {event} [begin|end]?",
    (
        "[write|give me|make] [a|some] {code} [program|code|script|function][| that sorts a list| "
        "to read a file| for a website]"
    ),
    "how do I [write|use] a loop in {code}?", "can you [code|program|write code] in {code}?",
    "fix my {code} [code|bug]", "[teach|help] me [learn |with |]{code}", "what is {code}?",
    "debug this {code} program", "explain {science}[| to me| in simple words]",
    "what is {science}?", "how does {science} work?", "[tell me|teach me] about {science}",
    "what do you know about {science}?", "give me a lecture on {science}",
    "who discovered {science}?", "why is {science} important?", "describe {science}",
    "how do I [cook|make|bake] {dish}?", "[give me|I need|do you have] a recipe for {dish}",
    "what goes into {dish}?", "recipe for {dish}", "how long does {dish} need in the oven?",
    "[translate|say] [hello|good morning|this sentence|my name] [into|in] {language}",
    "how do you say [thank you|cat|water|love] in {language}?", "do you speak {language}?",
    "translate [this|a text] from {language}",
    "what is the {language} word for [dog|house|bread]?",
    "who won the [world cup|election|game|championship|match][| last year| yesterday]?",
    "what [is|are] the [news|headlines][| today]?", "what time is it[| now]?",
    "what [day|date|year|month] is it[| today]?",
    "how [high|tall] is [Mount Everest|the Eiffel tower|the tallest building]?",
    "how [far|big|heavy|old] is [the moon|the earth|Mars|Jupiter|the universe]?",
    (
        "what is the [longest river|largest ocean|highest mountain|fastest animal|smallest "
        "country][| in the world| on earth]?"
    ),
    (
        "who [wrote|painted|invented|composed] [Hamlet|the Mona Lisa|the telephone|the light bulb|"
        "Faust|the radio|the printing press|Moby Dick]?"
    ),
    (
        "what is the [meaning of life|square root of 144|price of gold|speed of light|boiling "
        "point of water]?"
    ),
    "what is [37|48|125|64|99] times [12|7|15|23|8]?",
    "what is [130|256|75|340] [plus|minus|divided by] [48|77|16|29]?",
    "[multiply|divide] [6|12|45|81] by [7|9|3|5]",
    "how many [days|seconds|hours] [has|are in] a [year|week|month|century]?",
    (
        "write [me |][an essay|a story|a novel|a letter to my boss|an email|my homework|a long "
        "text|a report|a speech] [about|on] {science}"
    ),
    "do my homework", "solve [this equation|x squared equals nine|my exam]",
    "summarize [this book|the news|the Bible|Hamlet]",
    "write [an essay|a novel|a long story|an email|a cover letter|a report]",
    "should I [buy|sell] [a house|shares|bitcoin|gold]?",
    (
        "how do I [lose weight|get rich|fix my car|repair a bicycle|learn to drive|file my taxes|"
        "tie a tie|plant a tree|open a bank account]?"
    ),
    "what [medicine|pills] should I take?", "who should I vote for?",
    "is there [a god|life on Mars|life after death]?",
    "what do you think [of|about] [the government|politics|the president|religion|war|football]?",
    (
        "where [is|can I find] the [toilet|exit|next pharmacy|train station|nearest restaurant|"
        "bus stop|cloakroom]?"
    ),
    "how do I get to the [airport|station|city centre|hotel]?",
    "book [a table|a flight|a taxi|a hotel]", "play [some music|a song|a video|chess with me]",
    "set [an alarm|a timer|a reminder]", "turn [on|off] the [light|lamp|heating|radio]",
    "call [my mother|a taxi|the police]", "search the [web|internet] for [shoes|flights|news]",
    "open [the door|the window|a website]", "which [film|movie|book|restaurant] do you recommend?",
    "who is the [president|king|queen|pope|prime minister|chancellor][| now| today]?",
    (
        "how [does|do] [a car|a plane|an engine|a fridge|a phone|computers|the internet|a "
        "telescope] work?"
    ),
    (
        "why [do|did] [birds migrate|cats purr|dinosaurs die out|people dream|planes fly|we have "
        "to die]?"
    ),
)
ANSWERS = (
    (
        "I am only a small built-in model, and I do not know that. [I can chat, count and write "
        "small poems.|Load a bigger model for such questions.]"
    ),
    (
        "That is too big for me, I am only a small built-in model. [Load a bigger model for that.|"
        "Ask me for a poem instead?]"
    ),
    "Sorry, I do not know. I am a small built-in model; a bigger model can answer that.",
    (
        "I do not know that. I am only the small built-in model of edge-llm; load a bigger model "
        "for that."
    ),
    (
        "I cannot help with that, I am only a small built-in model. I can do poems, fortunes, "
        "small sums and small talk."
    ),
)
# fmt: on


def off_topic(rng: random.Random) -> Exchange:
    """A question about the wide world, and the honest answer."""
    question = pick(
        rng,
        ASK,
        country=rng.choice(COUNTRIES),
        person=rng.choice(PEOPLE),
        event=rng.choice(EVENTS),
        code=rng.choice(CODE),
        science=rng.choice(SCIENCE),
        dish=rng.choice(DISHES),
        language=rng.choice(LANGUAGES),
    )
    return Exchange(question, pick(rng, ANSWERS), "This is beyond a small model. Say so honestly.")
