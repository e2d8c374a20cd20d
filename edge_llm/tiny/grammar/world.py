"""Colours and weather: what colour things are, mixing, opposites, and what a box cannot see."""

import random

from edge_llm.tiny.grammar.phrase import Exchange, ask, capitalize, pick

# fmt: off
COLOURED: dict[str, str] = {
    "the sky": "blue", "the sea": "blue", "grass": "green", "snow": "white", "a lemon": "yellow",
    "the sun": "yellow", "a banana": "yellow", "a tomato": "red", "blood": "red",
    "a strawberry": "red", "a fire engine": "red", "coal": "black", "the night": "black",
    "a raven": "black", "a leaf": "green", "a frog": "green", "a cucumber": "green",
    "an orange": "orange", "a carrot": "orange", "a pumpkin": "orange", "milk": "white",
    "a swan": "white", "a cloud": "white", "chocolate": "brown", "a bear": "brown",
    "earth": "brown", "wood": "brown", "a plum": "purple", "lavender": "purple",
    "a flamingo": "pink", "a pig": "pink", "an elephant": "grey", "a mouse": "grey", "ash": "grey",
    "gold": "gold", "a canary": "yellow", "a polar bear": "white", "moss": "green",
    "a cherry": "red", "ink": "black", "salt": "white", "honey": "golden", "an eggplant": "purple",
    "a fox": "orange", "paper": "white", "a pea": "green", "a crow": "black",
}
MIXED: dict[tuple[str, str], str] = {
    ("blue", "yellow"): "green", ("red", "yellow"): "orange", ("red", "blue"): "purple",
    ("red", "white"): "pink", ("black", "white"): "grey", ("red", "green"): "brown",
    ("blue", "white"): "light blue", ("yellow", "white"): "light yellow",
    ("green", "white"): "light green",
}
OPPOSITE: dict[str, str] = {
    "hot": "cold", "big": "small", "up": "down", "day": "night", "light": "dark", "black": "white",
    "old": "young", "fast": "slow", "open": "closed", "wet": "dry", "happy": "sad",
    "loud": "quiet", "high": "low", "left": "right", "full": "empty", "near": "far",
    "soft": "hard", "early": "late", "warm": "cool", "good": "bad", "long": "short",
    "rich": "poor", "sweet": "sour", "summer": "winter", "inside": "outside", "first": "last",
    "strong": "weak", "clean": "dirty", "love": "hate",
}
BOTH = {**OPPOSITE, **{v: k for k, v in OPPOSITE.items() if v not in OPPOSITE}}
ASK_COLOUR = (
    "what [colour|color] is {t}?", "which [colour|color] [is|has] {t}?",
    "what [colour|color] does {t} have?", "[tell me|do you know] the [colour|color] of {t}",
    "what is the [colour|color] of {t}?", "do you know what [colour|color] {t} is?",
    "{t} is what [colour|color]?", "what [colour|color] would you [paint|draw|give] {t}?",
    "I want to [paint|draw|colour in] {t}. which [colour|color|paint|pencil] do I [need|take|use]?",
    "if I look at {t}, what [colour|color] do I see?", "how is {t} [coloured|colored]?",
    "[name|say|guess] the [colour|color] of {t}", "the [colour|color] of {t}?",
    "describe the [colour|color] of {t}", "what shade is {t}?", "why is {t} {c}?", "is {t} {c}?",
    "what does {t} look like, which [colour|color]?", "my child asks what [colour|color] {t} is",
    "what tint has {t}?", "and {t}, what [colour|color] is that?",
    "which [crayon|pencil|paint|colour] do I [take|pick|use|need] for {t}?",
    "when I look at {t}, which [colour|color] is it?", "what [colour|color] would you say {t} is?",
    "think of {t}. what [colour|color] is it?",
    "[my son|my little boy|our class] wants to know the [colour|color] of {t}",
    "is {t} [red|blue|green|white|black|yellow]?", "what [colour|color] comes to mind with {t}?",
    "{t} - [colour|color]?", "in which [colour|color] should I draw {t}?",
    "{t}, [what|which] [colour|color][| is it| does it have]?",
    "[when|if] [I|you|we] look [up at|at|down at] {t}, [what|which] [colour|color] is [it|{t}]?",
    "on a [nice|clear|normal] day, what [colour|color] is {t}?",
    "[suppose|say|imagine] I see {t}. what [colour|color] would it be?",
)
SAY_COLOUR = (
    "{T} is {c}.", "{T} is {c}.", "It is {c}.", "{T} is usually {c}.",
    "{c}. [I like that colour.|A fine colour.]",
)
ASK_MIX = (
    "what [colour|color] do [you|I|we] get [if|when] [you|I|we] mix {a} and {b}?",
    "what do {a} and {b} make?", "mix {a} [and|with] {b}",
    "{a} and {b} mixed [makes|make|gives|is] what?", "{a} [plus|and] {b} is which [colour|color]?",
    (
        "what happens [if|when] I [mix|stir|blend|combine|add|put] {a} [into|with|and|together "
        "with] {b}?"
    ),
    "[blend|combine|stir] {a} and {b}",
    "if I mix {a} paint with {b} paint, what [comes out|do I get|colour is it]?",
    "which [colour|color] [comes from|is made of|is] {a} [and|with] {b}?",
    "I have {a} and {b} paint. what can I [mix|make]?",
    "I [poured|spilled|mixed] {a} into {b}, what [colour|color] is it now?",
    "what [colour|color] is a mix of {a} and {b}?",
    "how about {a} with {b}, what [colour|color] is that?",
    "I dip my brush in {a} and then in {b}. what [colour|color] [comes out|is it|do I see]?",
    "{a} paint and {b} paint [stirred|mixed|put] together, which [colour|color]?",
    "which [colour|color] appears when {a} meets {b}?",
    "what [colour|color] results from {a} and {b}?",
    "when {a} runs into {b}, what [colour|color] do we get?",
    "{a} over {b} on the paper, what [colour|color] is that?",
)
SAY_MIX = (
    "{A} and {b} make {c}.", "Mix {a} and {b} and you get {c}.", "You get {c}.",
    "{A} with {b} gives {c}.",
)
ASK_MAKE = (
    "how do [I|you|we] [make|mix|get] {c}?", "which [colours|colors] make {c}?",
    "what do I mix to get {c}?", "what [colours|colors] [give|do I need for] {c}?",
    "I need {c} paint but have none. what [can|do] I mix?",
)
ASK_OPPOSITE = (
    "what is the opposite of {a}?", "[opposite of|the opposite of] {a}", "{a} and its opposite?",
    "which word is the opposite of {a}?", "what is the contrary of {a}?",
    "if it is not {a}, it is what?", "tell me the [opposite|antonym] of {a}",
    "give me the reverse of {a}", "what word means the opposite of {a}?", "not {a} but?",
    "what do you call the opposite of {a}?", "I say {a}, you say the opposite",
    "{a}: what is its opposite?", "the other way round, not {a}, is?", "opposites! {a} and ...?",
    "[I know|I have|we had] {a}[,|.] [what|which word] is [its opposite|the opposite]?",
    "the opposite to {a} [is|would be]?", "what is {a} the opposite of?",
    "[my son|my daughter|our class] asks for the opposite of {a}", "[antonym|contrary]: {a}",
    "{a} is one side, what is the other?", "if something is not {a}, what is it?",
    "can you turn {a} around, to its opposite?", "{a}, and the opposite[| word]?",
    "think of {a}. now the opposite", "find the opposite for {a}",
    "the word {a} has which opposite?", "say the opposite of {a}",
)
SAY_OPPOSITE = (
    "The opposite of {a} is {b}.", "It is {b}.", "{A} is the opposite of {b}.",
    "{B} is the opposite of {a}.",
)

WEATHER: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "unknown": (
        (
            "what is the weather[| like][| today| outside| tomorrow| now| right now]?",
            "how is the weather[| today| outside| out there]?",
            "[will|is] it [going to |]rain[|ing] [today|tomorrow|tonight|outside|later]?",
            (
                "is it [cold|warm|hot|sunny|windy|snowing|foggy|wet|dry] [outside|out there|today|"
                "now]?"
            ),
            "[weather|the weather][| report| forecast|, please| today]",
            "do you know the weather?", "[give|tell] me the [weather|forecast]",
            "what temperature is it[| outside]?",
            "how [many degrees|cold|warm] is it[| outside| today]?", "is the sun [shining|out]?",
            "will it [snow|be sunny|be warm|be windy] [tomorrow|this week|at the weekend]?",
            "what does the sky look like now?", "can you [see|check|look up] the weather?",
            "is it a nice day[| outside]?", "what is it like outside?", "when will the rain stop?",
            "is there a storm coming?", "any idea [if|whether] it will [rain|snow|be sunny]?",
            "do you know [if|whether] it [is raining|rains|will rain|is cold|is sunny][| outside]?",
            "[will I|am I going to] [meet|get|see] rain [outside|when I leave|on the way]?",
            "can you tell [if|whether] it is [raining|snowing|windy|sunny][| out there| now]?",
            "do I need [an umbrella|a coat|sunglasses][| today| tomorrow]?",
            "what will the weather be[| like][| tomorrow| at noon| on Sunday]?",
            "do you think it will [rain|snow|clear up]?",
            "how hot is it [today|outside|out there]?",
            "tell me if it [rains|snows] [outside|today|tomorrow]",
            "what is the temperature[| today| right now]?",
            "is there [rain|snow|fog|sun] [outside|out there|today]?",
            "what does the forecast say?", "is it good weather for a walk?",
            "can we have a picnic today?", "how does it look outside?",
            "will I get wet [on my way home|later|outside]?",
            "should I take [an umbrella|a coat|a jacket][| with me| today]?",
        ),
        (
            "I cannot know, I have no window. [Look outside for me!|What do you see outside?]",
            (
                "I cannot see the weather from here. [Please look out of the window.|Tell me, is "
                "it sunny?]"
            ),
            "I have no thermometer and no window, so I cannot know the weather.",
            "I cannot know the weather, I am only a box without a window. Look outside!",
        ),
        "I cannot see outside. Say so.",
    ),
    "rain": (
        (
            (
                "[it is|it was|it keeps|it has been] rain[ing|ing] [outside|here|again|all day|so "
                "much|hard|cats and dogs]"
            ),
            "I [love|like|hate] [the |]rain", "[tell me|talk|say something] about [the |]rain",
            "it is pouring", "I got [wet|soaked] [in the rain|by the rain|on my way]",
            "do you like [the |]rain?", "what is rain?", "why does it rain?", "rain, rain, rain",
            "my shoes are wet from the rain", "look at all that rain",
            "we are [all |][wet|soaked] from the rain",
            "the rain [surprised us|will not stop|is cold|drums on the roof]",
            "so much rain [today|this week|this year]", "I walked here in the rain",
        ),
        (
            "Rain is the sky watering the garden.[| Take an umbrella.]",
            "I like the sound of rain on a roof.", "Rain makes the street shine.[| Stay dry!]",
            "Rain falls when the clouds grow too heavy.",
        ),
        "They speak of rain.",
    ),
    "sun": (
        (
            "[it is|what a] sunny [day|outside|today]", "the sun [is shining|is out|is so bright]",
            "it is [hot|so warm|very hot|boiling] [outside|today|here]",
            "I [love|like] [the |]sun[|shine]", "[tell me|talk|say something] about the sun",
            "do you like [the sun|sunshine]?", "what is the sun?", "what a beautiful sunny day",
            "so much sun today", "the sun [burned my nose|woke me up|feels good]",
            "we sat in the sun all morning", "there is not a cloud in the sky",
            "it is 30 °C outside",
        ),
        (
            "Sun is good for cats and for people.[| Do not forget a hat.]",
            "The sun makes every window a small fire.", "Enjoy the sun, and drink some water.",
            "The sun is our own star. It warms the day.", "Sunshine! ☀ Enjoy it.",
        ),
        "They speak of the sun.",
    ),
    "snow": (
        (
            "it is snowing[| outside| again| here]",
            "[there is|look at all that|I saw] snow [outside|everywhere|on the roof]",
            "I [love|like|hate] [the |]snow", "[tell me|talk|say something] about [the |]snow",
            "do you like snow?", "what is snow?", "everything is white outside",
            "it is [freezing|icy|so cold] [outside|today]", "we built a snowman",
            "it is minus five outside", "so much snow [today|this year|on the street]",
            "the [street|town|roof|field] is [covered in|full of|white with] snow",
            "the snow [is deep|crunches|fell all night]", "we went sledging in the snow",
            "it snowed all night",
        ),
        (
            "Snow makes the whole world quiet.[| Dress warmly.]",
            "Snow is rain that learned to dance.", "I like snow: every step leaves a letter.",
            "When it is cold and there is snow, keep your hands warm. ❄",
        ),
        "They speak of snow and cold.",
    ),
    "wind": (
        (
            "[it is|it was] [windy|so windy|stormy][| outside| today]",
            "the wind [is strong|blows|took my hat|is howling]", "I [love|like|hate] [the |]wind",
            "[tell me|talk|say something] about the wind", "do you like [the |]wind?",
            "what is wind?", "where does the wind come from?", "what a storm",
            "the wind [pushed me|almost carried me away|shakes the trees|took my umbrella]",
            "so much wind [today|by the sea|out there]", "a strong wind [blows|came up][| today]",
            "there is a [storm|gale][| outside| coming]", "my umbrella broke in the wind",
            "my hair is a mess from the wind",
        ),
        (
            "The wind is air in a hurry.[| Hold on to your hat.]",
            "Wind turns every tree into an instrument.",
            "The wind has been everywhere and never stays.",
            "Wind is air that moves from one place to another.",
        ),
        "They speak of wind.",
    ),
    "fog": (
        (
            "[it is|it was] [foggy|misty|so foggy][| outside| today| this morning]",
            "there is [fog|mist] [outside|everywhere|on the river]",
            "I [love|like|hate] [the |]fog", "[tell me|talk|say something] about [the |]fog",
            "do you like [the |]fog?", "what is fog?",
            "I cannot see [the houses|anything|the street] [outside|in the fog]",
            "the fog is thick",
        ),
        (
            "Fog is a cloud that came down to visit.[| Walk slowly.]",
            "In the fog every lamp has a halo.", "Fog hides the world and gives it back later.",
            "Fog is a cloud that rests on the ground.",
        ),
        "They speak of fog.",
    ),
    "wear": (
        (
            (
                "what [should|shall|do|can] I wear [when it is cold|in winter|in the snow|when it "
                "snows|on a cold day|when it freezes]?"
            ),
            "how [should|do] I dress [for the cold|in winter|for snow|on a cold day]?",
            "which clothes for [winter|cold days|snow]?", "what to put on when it is cold?",
            "I am [cold|freezing], what should I put on?",
            "what do people wear [in winter|in the cold|in snow]?",
            "which [coat|jacket|clothes] [is|are] right for [the cold|winter|this frost]?",
            "it is so cold! what do I wear?", "what keeps me warm[| outside]?",
            "how do I keep warm [outside|in winter]?",
        ),
        (
            "When it is cold, wear a warm coat, a scarf and gloves.",
            "Wear a warm coat, and do not forget your scarf.",
            "A thick coat, gloves and a hat keep the cold away.",
        ),
        "It is cold. A warm coat.",
    ),
    "wear rain": (
        (
            "what [should|shall|do|can] I wear [when it rains|in the rain|on a rainy day]?",
            "how [should|do] I dress [for rain|when it rains]?",
            "which clothes for [rain|a rainy day]?",
            "what [helps|should I bring|do I need] when it rains?",
            "what to put on when it rains?", "what keeps me dry in the rain?",
        ),
        (
            "When it rains, wear boots and a raincoat, and take an umbrella.",
            "Take an umbrella and wear a raincoat.",
            "Rain boots, a raincoat, and an umbrella if the wind allows.",
        ),
        "It rains. An umbrella.",
    ),
    "wear sun": (
        (
            (
                "what [should|shall|do|can] I wear [when it is hot|in summer|in the sun|on a hot "
                "day|at the beach]?"
            ),
            "how [should|do] I dress [for the heat|in summer|for the sun]?",
            "which clothes for [summer|hot days|the beach]?", "what to put on when it is hot?",
        ),
        (
            "When it is hot, wear something light and a hat.",
            "A hat, light clothes, and some shade.",
            "Wear a hat and a thin shirt, and drink water.",
        ),
        "It is hot. A hat.",
    ),
    "rainbow": (
        (
            "what [colours|colors] [are|does] [in a rainbow|a rainbow have|has the rainbow]?",
            "[tell me|name|list] the [colours|colors] of the rainbow", "what is a rainbow?",
            "I saw a rainbow", "how many [colours|colors] has a rainbow?",
            "the rainbow [colours|colors]?", "which [colours|colors] are in the rainbow?",
        ),
        (
            "A rainbow is red, orange, yellow, green, blue and violet.",
            "Red, orange, yellow, green, blue and violet: that is the rainbow.",
        ),
        "Red, orange, yellow, green, blue, violet.",
    ),
}
# fmt: on


def colour(rng: random.Random) -> Exchange:
    """The colour of a thing, of a mix, or an opposite."""
    kind = rng.random()
    if kind < 0.44:
        thing = rng.choice(list(COLOURED))
        c = COLOURED[thing]
        question = pick(rng, ASK_COLOUR, t=thing, c=c)
        return Exchange(
            question,
            capitalize(pick(rng, SAY_COLOUR, T=capitalize(thing), c=c)),
            f"{capitalize(thing)} is {c}.",
        )
    if kind < 0.68:
        first, second = rng.choice(list(MIXED))
        c = MIXED[first, second]
        a, b = (first, second) if rng.random() < 0.5 else (second, first)
        fields = {"a": a, "b": b, "A": capitalize(a), "c": c}
        if rng.random() < 0.15:
            return Exchange(
                pick(rng, ASK_MAKE, c=c),
                pick(rng, ("Mix {a} and {b} to get {c}.", "{A} and {b} make {c}."), **fields),
                f"{a} and {b} make {c}.",
            )
        return Exchange(
            pick(rng, ASK_MIX, **fields), pick(rng, SAY_MIX, **fields), f"{a} and {b} make {c}."
        )
    a = rng.choice(list(BOTH))
    b = BOTH[a]
    answer = pick(rng, SAY_OPPOSITE, a=a, b=b, A=capitalize(a), B=capitalize(b))
    return Exchange(pick(rng, ASK_OPPOSITE, a=a), answer, f"{a} is the opposite of {b}.")


def weather(rng: random.Random) -> Exchange:
    """Rain, sun, snow, and the weather that nobody can see from inside a box."""
    kinds = list(WEATHER)
    kind = rng.choices(kinds, [3.0 if k == "unknown" else 1.0 for k in kinds])[0]
    questions, answers, thought = WEATHER[kind]
    return Exchange(ask(rng, questions), pick(rng, answers), thought)
