"""Poems of two lines that rhyme, and fortunes."""

import random

from edge_llm.tiny.grammar.phrase import Exchange, capitalize, pick

# fmt: off
POEMS: dict[str, tuple[str, ...]] = {
    "the sea": (
        "The sea rolls in, the sea rolls out,\nit has no end and has no doubt.",
        "The sea hums low beneath the moon,\nand every shell has kept its tune.",
    ),
    "the night": (
        "The night puts on its coat of blue,\nand keeps a star for me and you.",
        "The night is soft, the night is deep,\nit rocks the little world to sleep.",
    ),
    "rain": (
        "Rain taps upon the window pane,\nand writes its name, and writes again.",
        "The rain came down on roof and street,\nand danced with small and silver feet.",
    ),
    "the moon": (
        "The moon looks in, a silver guest,\nand tells the tired world to rest.",
        "The moon went walking, round and bright,\nand left the door ajar for light.",
    ),
    "the sun": (
        "The sun got up and stretched its rays,\nand painted gold on all our days.",
        "The sun went down behind the hill,\nbut stones and walls are warm from it still.",
    ),
    "stars": (
        "The stars are lamps that no one lit,\nthey burn above us, bit by bit.",
        "Ten thousand stars looked down on me,\nand I looked up, and let them be.",
    ),
    "the wind": (
        "The wind went by without a word,\nand every leaf and flower heard.",
        "The wind has neither house nor key,\nand that is why the wind is free.",
    ),
    "snow": (
        "The snow fell soft on field and stone,\nand made the silent world its own.",
        "Snow on the roof and snow on the tree,\nand one set of footprints, leading to me.",
    ),
    "autumn": (
        "In autumn all the leaves let go,\nand teach us how to fall down slow.",
        "Autumn came in red and gold,\nto warm the world before the cold.",
    ),
    "spring": (
        "In spring the smallest seed will say:\nI slept enough, I wake today.",
        "Spring knocks softly on the door,\nand there are flowers on the floor.",
    ),
    "summer": (
        "The summer hums, the summer sings,\nof bees and berries and golden things.",
        "Summer sleeps in meadows long,\nand all the crickets know its song.",
    ),
    "winter": (
        "In winter when the nights are long,\na candle is a little song.",
        "Winter draws upon the glass\na frozen fern, a frozen grass.",
    ),
    "a cat": (
        "A cat came in on quiet feet,\nand took the warmest, softest seat.",
        "The cat looks out, the cat looks in,\nand wonders where the birds have been.",
    ),
    "a dog": (
        "A dog is waiting at the gate,\nhe does not mind that you are late.",
        "My dog has never told a lie,\nhis tail says all, and so say I.",
    ),
    "a bird": (
        "A bird sat singing on the wire,\nits little heart a tiny fire.",
        "The bird let go and rose up high,\nand signed its name across the sky.",
    ),
    "a coyote": (
        "A coyote sings to the desert moon,\nthe stars all know the lonely tune.",
        "The coyote trots where the dry grass grows,\nand where he goes to, nobody knows.",
    ),
    "a fox": (
        "A fox ran over fields of snow,\nand left a line of dots to show.",
        "The fox was here, the fox is gone,\na flash of red upon the lawn.",
    ),
    "a tree": (
        "A tree stands still and yet it grows,\nwhat wind has told it, no one knows.",
        "The tree has room for every bird,\nand keeps the secrets it has heard.",
    ),
    "the forest": (
        "The forest breathes, so green, so deep,\nit holds the owls that do not sleep.",
        "Deep in the forest, under the fern,\nthe quiet things all take their turn.",
    ),
    "a river": (
        "The river runs and never stays,\nit carries off our yesterdays.",
        "A river knows one thing to do:\nto find the sea by passing through.",
    ),
    "the mountain": (
        "The mountain wears a hat of cloud,\nit says so much and not out loud.",
        "The mountain stood before we came,\nand does not need to know our name.",
    ),
    "fire": (
        "The fire tells tales in red and gold,\nof summers that the wood had stored in the cold.",
        "A little fire, a little light,\nis all we need to cross the night.",
    ),
    "light": (
        "A little light fell on the floor,\nit had not asked, it used the door.",
        "The light came early, thin and new,\nand touched the grass and found the dew.",
    ),
    "love": (
        "Love is a lamp that two hands hold,\nit keeps the winter from the cold.",
        "I looked for love both far and wide,\nand found it sitting at my side.",
    ),
    "friendship": (
        "True friendship is an open door,\na cup of tea, and then one more.",
        "In friendship there is room for two,\na bit of me, a bit of you.",
    ),
    "home": (
        "Home is the lamp that waits for you,\nthe creaking step, the key, the blue.",
        "I walked the world and all its foam,\nto learn the sweetest word is home.",
    ),
    "dreams": (
        "Dreams are boats without a shore,\nthey bring us far and leave no oar.",
        "My dreams last night had wings of blue,\nthey circled once and flew to you.",
    ),
    "time": (
        "Time walks on and does not wait,\nbe kind today, it is not late.",
        "The clock says time, the clock says tick,\nthe years are slow, the hours are quick.",
    ),
    "a robot": (
        "The robot dreamed of oil and tin,\nand of the heart he had within.",
        "A robot watched the sunset glow,\nand wrote it down in ones and ohs.",
    ),
    "a machine": (
        "A small machine with a little fan\nsays pretty things as well as it can.",
        "The machine hums softly in the hall,\nand has a word for one and all.",
    ),
    "a button": (
        "You press the button, small and round,\nand words grow up without a sound.",
        "One little button, pressed just so,\nand off the little verses go.",
    ),
    "music": (
        "The music came in through the wall,\nand lit the lamps along the hall.",
        "When music ends, it does not go,\nit hums in us, so soft, so low.",
    ),
    "silence": (
        "The silence has a voice as well,\nit sounds like snow, it rings like a bell.",
        "In silence every leaf can hear\nthe year that turns into a year.",
    ),
    "a flower": (
        "A flower opened in the street,\nbetween the wheels and hurried feet.",
        "The flower has no clock to see,\nand yet it greets the early bee.",
    ),
    "bees": (
        "The bees go humming, round and round,\nand gold is hidden in the sound.",
        "Bees write letters, sweet and slow,\nto every flower that they know.",
    ),
    "coffee": (
        "The coffee steams, the morning waits,\nthe sleepy world can open its gates.",
        "A cup of coffee, black and hot,\nremembers me what I forgot.",
    ),
    "bread": (
        "The bread is warm, the day is new,\nI broke it once, a half for you.",
        "Fresh bread at dawn, its golden crust\nsays: here is something you can trust.",
    ),
    "the city": (
        "The city never shuts its eyes,\nits windows are its fireflies.",
        "The city hums, the city gleams,\na million lamps, a million dreams.",
    ),
    "a lighthouse": (
        "The lighthouse turns its yellow eye,\nand ships that see it, don't pass by.",
        "A lighthouse stands where waters roar,\nand draws a line of light to shore.",
    ),
    "a ghost": (
        "A ghost went softly up the stair,\nand found that no one else was there.",
        "The ghost is kind, the ghost is shy,\nit only wants to say goodbye.",
    ),
    "art": (
        "Art is a window in a wall,\nit was not there till you saw it at all.",
        "They hung up art, I stood quite near,\nand something in me said: look here.",
    ),
    "children": (
        "The children run, the children shout,\nand let the hidden summer out.",
        "Where children play upon the floor,\nthe world is bigger than before.",
    ),
    "clouds": (
        "The clouds go by like sheep at noon,\nand one of them has swallowed the moon.",
        "Clouds have nowhere they must be,\nthey drift along from sea to sea.",
    ),
    "fish": (
        "The fish swim by in silver rows,\nand what they think of, no one knows.",
        "A little fish looked up to see\na shadow boat, a shadow me.",
    ),
}
# For any other subject: lines that hold whatever its number and article.
ANY = (
    "I wrote two lines about {t} today,\nand then the wind took one of them away.",
    "I dreamed of {t} when the night was long,\nand woke up with the makings of a song.",
    "I asked the moon about {t} last night,\nit smiled and filled the window up with light.",
    "Of {t} I sing, so quiet and so low,\na little song for everyone I know.",
    "They told me tales of {t} when I was small,\nI kept them like a picture on the wall.",
    "If I could draw {t} with a silver pen,\nI would begin, and then begin again.",
    "I thought of {t} and the evening came,\nand every lamp was whispering the name.",
    "Give me {t}, a window and a chair,\nand I will find a bit of wonder there.",
    "A word for {t}, and then a word for you,\nand that is all a little poem can do.",
    "I looked for {t} underneath the sky,\nand found it, like a secret, passing by.",
    "The world is wide, but {t} is all I see,\nwhen evening lays its quiet hand on me.",
    "Who sings of {t} will never be alone,\nthe song will find a heart to be its own.",
)
SUBJECTS = (
    "a teapot;an old umbrella;a broken clock;my grandmother;my bicycle;a red balloon;a train;the "
    "desert;a garden;a spider;an elephant;chocolate;a lost glove;a key;a mirror;a bridge;a horse;"
    "the rainbow;thunder;a candle;a letter;my shoes;a whale;a mouse;the morning;the evening;a "
    "frog;a stone;a boat;the kitchen;a pencil;a guitar;a window;the dark;a feather;the north;an "
    "apple;a snail;my sister;a wizard;the circus;a piano;an owl;soup;the museum;a wolf;ice;a leaf;"
    "hope;peace;courage;tea;a rose;a butterfly;the ocean;an island;a castle;a dragon;the internet;"
    "a computer;electricity;a painting;the library;a kite;cheese;a penguin;happiness;the future;"
    "my mother;a baby;sleep;laughter;the beach;a tiger;birds;cats;dogs;trees;flowers;fog;a storm;"
    "a hedgehog;the street;a carpet;sand;a cactus;pizza;a pigeon;a sailor;the harbour;glass;dust;"
    "a dancer;a bell;the attic;a suitcase;a lamp;a squirrel;a lizard"
).split(";")
ASK_POEM = (
    (
        "[write|make|tell|give|read|say|compose|invent|create] [me |us |]a [poem|verse|rhyme|"
        "short poem|little poem|two-line poem|couplet] about {t}"
    ),
    "a [poem|rhyme|verse] [about|on] {t}",
    "can you [write|make|do|say|recite] a [poem|rhyme|verse] [about|on] {t}?",
    "[poem|rhyme|verse] about {t}",
    "I [want|would like|need|would love] a [poem|rhyme|verse] about {t}",
    "do you know a [poem|rhyme|verse] about {t}?",
    "[write|make up|give me] [something poetic|two lines|a few lines|some poetry] about {t}",
    "[could|would] you [rhyme|write two lines|write a verse|be poetic] about {t}?",
    "put {t} [in|into] a [poem|rhyme|verse]", "make {t} rhyme",
    "let me hear a [poem|verse] about {t}", "[turn|make] {t} into a [poem|verse|rhyme]",
    "two lines [about|on|for] {t}",
    "my [daughter|son|friend|wife] wants a [poem|rhyme|verse] about {t}",
    "what would a poem about {t} [sound|be] like?",
    "I love {t}. [write|make] a [poem|rhyme] about [it|that]", "something that rhymes about {t}",
    "poetry [about|on] {t}", "sing [me |us |][something|a line] about {t}",
    "how about a [verse|poem|rhyme] on {t}?", "{t}, as a [poem|rhyme]",
    "say something [beautiful|poetic|lyrical] about {t}", "[dedicate|write] a [poem|verse] to {t}",
    (
        "[think of|come up with|find|invent] [a rhyme|two lines|a verse|some verses|a poem] "
        "[about|on|for] {t}"
    ),
    "do you have a [poem|verse|rhyme] [about|on] {t}?",
    "I would [enjoy|like|be happy about] [a verse|a poem|a rhyme|some verses] [on|about] {t}",
    "is there a [poem|verse|rhyme] about {t}[| that you know]?",
    "a [little|short|small|tiny|nice] [poem|verse|rhyme] [about|with|on] {t}",
    "{t} [would be|is] a good [subject|topic|theme] for a [poem|rhyme]",
    "we need a [poem|verse|rhyme] about {t} for [a party|my mother|the wall|a card|school]",
    "[poem|rhyme|verse]: {t}", "[poem|rhyme|verse] please, [about|on] {t}",
    "[would you|could you|can you] [come up with|make up|think of] a [verse|poem|rhyme] about {t}?",
    "do {t} in [rhyme|verse]", "my favourite thing is {t}, [make|write] a [poem|verse] of it",
    "the theme is {t}, [write|make] a [poem|verse|rhyme]",
)
ASK_ANY_POEM = (
    "[write|make|tell|give|read|say] [me |us |]a [poem|verse|rhyme]", "a [poem|rhyme|verse]",
    "[can|could|would] you [write|make|recite] a [poem|verse|rhyme]?",
    "I [want|would like|need] a [poem|rhyme|verse]",
    "do you [write|know|like|make] [poems|poetry|rhymes]?",
    "surprise me with a [poem|rhyme|verse]", "be a poet",
    "say something [poetic|lyrical|in rhyme]", "rhyme something", "poetry",
    "let me hear a [poem|rhyme]", "are you a poet?", "recite [something|a poem]",
)
MORE = (
    "another one", "one more[| please]", "[another|a different|a new] one[| please]", "again",
    "do it again", "once more", "more", "give me another", "and another?", "I want one more",
    "next one", "can I have another one?", "write another one", "a second one",
    "could I [hear|have|get] [another|one more]?", "[lovely|nice|good|great], another",
    "[that was nice|I like it], one more", "do you have another?", "tell me one more",
    "and one more?", "please make another", "I would like another one",
    "give us one more of [these|those]",
)

FORTUNES = (
    (
        "You will [find|receive|discover|keep] [a letter|a small key|an old photograph|a lost "
        "coin|a kind word|a feather|a good book|something blue] [where you least expect it|before "
        "the week ends|on a quiet evening|in an old coat|near running water|when you stop "
        "looking]."
    ),
    (
        "You will meet [a stranger|an old friend|a child|someone with a red scarf|a traveller|a "
        "gentle voice] [who makes you laugh|who remembers your name|who brings good news|on a "
        "bridge|before the moon is full|when it rains]."
    ),
    (
        "You will [go on a journey|take a short walk|travel by train|cross a river|open a new "
        "door] and [come home with a smile|find more than you were looking for|learn a new song|"
        "see the sea]."
    ),
    (
        "You will soon [laugh|sing|dance|smile] [until your cheeks hurt|with someone you love|in "
        "the rain|without any reason]."
    ),
    (
        "A [surprise|small gift|good friend|quiet hour|piece of luck] waits for you, and you will "
        "[know it when you see it|not have to wait long|find it close to home]."
    ),
    "Your patience will be rewarded, and you will [sleep well|find what you lost|hear good news].",
    (
        "Something that you lost will come back to you [before the next full moon|when the leaves "
        "turn|on a Tuesday]."
    ),
    (
        "You will make a wish, and [half of it|most of it|a part of it] will come true [this year|"
        "by spring|sooner than you think]."
    ),
    (
        "Luck will sit down next to you [on a bench|in a café|on the bus]. Say hello to it, and "
        "you will be friends."
    ),
    (
        "You will [learn|try|begin] something new, and it will [be easier than it looks|make your "
        "heart light|change your mornings]."
    ),
    (
        "The [road|door|answer] that you fear will be [shorter|lighter|kinder] than you think. "
        "You will be glad that you went."
    ),
)
ASK_FORTUNE = (
    "tell [me|us] my [fortune|future|fate]", "what [does|will] the future [bring|hold][| for me]?",
    "[can|could|will] you [tell|read|see] my [fortune|future|fate]?",
    "what is my [fortune|future|fate|destiny|horoscope]?", "[a|my] fortune[| please]",
    "[read|predict|see] my [future|fortune|fate]", "what will [happen|come|become of me]?",
    "what awaits me?", "what do you see in my future?",
    "will I be [happy|rich|lucky|famous|in love]?",
    "[give|make] me a [fortune|prophecy|prediction]",
    "will I [find love|have luck|be lucky today|travel|win]?",
    "[fortune cookie|prophecy|horoscope|prediction][| please]",
    "what do the stars say[| about me| today]?", "what will tomorrow bring?",
    "look into [the crystal ball|my future|the stars]", "I want to know my [future|fate|fortune]",
    "how will my [year|day|life|week] be?", "am I going to be [lucky|happy|rich|loved]?",
    "what is in store for me?", "[do you know|say] what [lies ahead|is coming]?",
    "tell me what [is coming|will happen|lies before me]", "what does fate want from me?",
    "is luck on my side?", "read my palm", "oracle, what do you see?",
    "what is going to happen to me?", "do I have good things ahead?", "I would like a fortune",
    "what does next year look like for me?", "what do you see [ahead|coming] for [me|us]?",
    "is there [luck|love|happiness|money] [ahead|waiting|in my future]?",
    "[show|reveal] me my [future|fate|destiny|fortune]", "what is [written|waiting] for [me|us]?",
    "will [my|our] [week|year|journey|wedding] be [good|lucky|happy]?",
    "can you look [ahead|into tomorrow|into the future] for [me|us]?",
    "[tell|show] us our [future|fate]", "what luck [is coming|waits for me]?",
    "do you see good things for [me|us]?", "a look into the future[| please]",
    "what do the [cards|stars|signs] [hold|tell|show]?",
)
# fmt: on
ALSO_FORTUNE = ("Here is your fortune: ", "I see it: ", "The stars say: ")


def subject_of_poem(rng: random.Random) -> str:
    """What a poem is about: one that has its own poems, or any other thing."""
    return rng.choice(list(POEMS)) if rng.random() < 0.5 else rng.choice(SUBJECTS)


def couplet(rng: random.Random, subject: str) -> str:
    """Two lines about the subject."""
    plain = subject.removeprefix("the ").removeprefix("a ").removeprefix("an ")
    own = [
        verses
        for name, verses in POEMS.items()
        if plain == name.removeprefix("the ").removeprefix("a ")
    ]
    if own and rng.random() < 0.9:
        return rng.choice(own[0])
    return capitalize(rng.choice(ANY).replace("{t}", subject.replace("my ", "your ")))


def poem(rng: random.Random, subject: str | None = None) -> Exchange:
    """A poem about the subject, or about one that is drawn; sometimes the visitor names none."""
    if subject is None and rng.random() < 0.15:
        free = rng.choice(list(POEMS))
        return Exchange(
            pick(rng, ASK_ANY_POEM), couplet(rng, free), f"No subject given. I choose {free}."
        )
    subject = subject or subject_of_poem(rng)
    asked = subject
    if rng.random() < 0.2:
        asked = subject.removeprefix("the ").removeprefix("a ").removeprefix("an ")
    return Exchange(
        pick(rng, ASK_POEM, t=asked),
        couplet(rng, subject),
        f"A poem of two lines about {subject}, with a rhyme.",
    )


def fortune(rng: random.Random) -> Exchange:
    """A fortune: something kind will happen."""
    answer = pick(rng, FORTUNES)
    if rng.random() < 0.15:
        answer = rng.choice(ALSO_FORTUNE) + answer
    return Exchange(
        pick(rng, ASK_FORTUNE), answer, "A fortune is asked. Something kind will happen."
    )


def encore(rng: random.Random) -> list[Exchange]:
    """A poem or a fortune, and then another."""
    if rng.random() < 0.6:
        subject = subject_of_poem(rng)
        first = poem(rng, subject)
        second = couplet(rng, subject)
        while second == first.answer:
            second = capitalize(rng.choice(ANY).replace("{t}", subject.replace("my ", "your ")))
        return [first, Exchange(pick(rng, MORE), second, f"Another poem about {subject}.")]
    return [fortune(rng), Exchange(pick(rng, MORE), pick(rng, FORTUNES), "Another fortune.")]
