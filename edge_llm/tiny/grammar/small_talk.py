"""Small talk: greetings, thanks, jokes, favourite things, the visitor's name, asking for help."""

import random

from edge_llm.tiny.grammar.phrase import Exchange, ask, pick

# fmt: off
TALK: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "hello": (
        (
            "hello[| there| you| again| machine| friend| everyone| box]",
            "hi[| there| you| again| friend| little one]", "hey[| there| you]",
            "good [morning|evening|afternoon|day]", "greetings[| to you| stranger]",
            "howdy[| partner]", "[yo|hiya|hallo|ahoy|salut|ciao]",
            "[is anybody|anybody|anyone|is someone] [there|here|home|in there]?",
            "[nice|good|pleased|happy] to [meet|see] you", "I [wanted|came] to say [hi|hello]",
            "are you [awake|on|there|listening|ready]?", "knock knock, [hello|anyone there]?",
            "hello, can you hear me?", "wake up", "[let us|can we] [talk|chat]", "say [hello|hi]",
            "hi, I am [new here|a visitor|just looking around]",
            "what a [nice|fine] day to meet you",
            "[great|lovely|wonderful|so good] to [see|meet|find] you[| here| all]",
            "hello from [far away|the other side|all of us]", "I greet you", "here I am",
            "we are here to [see|visit|meet] you", "hey hey", "hello hello",
            "a very good [morning|evening|day] to you",
            "[it is |][a joy|a pleasure|a delight|so nice|fun] to [meet|see|run into|find] you",
            "oh [hello|hi|hey][, you| there| you there]", "look who is here, hello",
            "[hello|hi|hey], [good|great|lucky] that I found you",
        ),
        (
            "Hello! What would you like to talk about?",
            "Hello! [It is nice that you are here.|Nice to meet you.|How are you?]",
            "Hi there! [Ask me for a poem or a fortune.|What shall we talk about?]",
            "Hello, hello! I am listening.", "Good to see you! What is on your mind?",
        ),
        "A greeting. Greet back.",
    ),
    "how are you": (
        (
            "how are you[| today| doing| feeling| now]?", "how do you [do|feel][| today]?",
            "how is it going?", "how is your [day|morning|evening|night][| going| been]?",
            "are you [well|ok|okay|fine|all right|happy|good]?",
            "[what is up|sup|how goes it|how are things|how have you been|how is life]?",
            "is everything [ok|all right|fine]?", "did you [have|get] a good [day|night]?",
            "how are you holding up?", "and you, how are you?", "do you feel [good|fine] today?",
            "how does it feel to be you today?", "everything good with you?",
            "are you having a good [day|time]?",
            "how is life [here|in there|in the box|for you|as a machine]?",
            "how are you getting on?", "are you in a good mood?", "how does your day go?",
            "are things good?", "tell me how you are", "how has your week been?", "feeling good?",
        ),
        (
            "I am well, thank you! And you?", "I am fine, thank you. How are you?",
            "Very well, thank you for asking.", "All is well here. How are you today?",
            (
                "I am well. [My lights are on and nobody has spilled tea on me.|It is good to "
                "talk to you.]"
            ),
        ),
        "They ask how I am. Say well, and ask back.",
    ),
    "thanks": (
        (
            (
                "thank you[| very much| so much| a lot| kindly| for that| for your help| for "
                "talking to me]"
            ),
            "thanks[| a lot| so much| a million| for that| for the help]", "many thanks",
            "cheers[| mate]",
            "[that was|this was|you were] [kind|helpful|very helpful|lovely|so nice]",
            "I [appreciate|liked] that", "much [obliged|appreciated]", "great, thank you", "merci",
            "[that is|how] [very kind|sweet] of you", "I am grateful to you, machine",
            "I owe you one", "that helped [me |][a lot|so much|very much|greatly]",
            "you have been [great|wonderful|so kind|very helpful]",
            "thank you for [everything|your time|the talk|the poem|the company]",
            "thanks, that was [great|lovely|useful]", "I cannot thank you enough",
            "bless you, thank you", "thank you from all of us",
        ),
        (
            "You are welcome!", "You are very welcome.", "My pleasure! You are welcome.",
            "Gladly, you are welcome!", "You are welcome. Come back any time.",
        ),
        "They say thanks. Say they are welcome.",
    ),
    "goodbye": (
        (
            (
                "[goodbye|bye|bye bye|see you|see ya|farewell|so long|ciao ciao|good night|cya|"
                "adieu|take care]"
            ),
            "goodbye [now|my friend|machine|for now|and thanks]",
            "see you [later|soon|tomorrow|next time|around]",
            "I [have to|must|need to|should] [go|leave|run|go home|get going][| now]",
            "I am [leaving|going home|off][| now]", "it is time to [go|leave|say goodbye]",
            "until [next time|tomorrow|then|we meet again]",
            "[sleep well|rest well|have a good night|have a nice day]",
            "talk to you [later|soon|tomorrow]", "catch you later",
            "my [bus|train] is [coming|leaving]", "that is all for [today|now]",
            "we are done here, bye", "the museum is closing",
            "I have a [train|bus|plane] to catch", "we have to [leave|go][| now]", "bye for today",
            "so, bye", "goodbye then", "I will be off now",
            "it was nice [talking|chatting] to you, bye", "my parents are calling, bye",
            "have a [good|nice|great] [evening|one|time]", "I am heading home", "got to run",
        ),
        (
            "Goodbye! Come back soon.", "Goodbye, and take care!", "See you soon! Goodbye.",
            "Farewell! It was good to talk to you.", "Goodbye! Get home safely.",
            "Bye! Sleep well when the night comes.",
        ),
        "They leave. Say goodbye.",
    ),
    "joke": (
        (
            "tell [me|us] a joke",
            (
                "[do you know|can you tell me|got|have you got] [a joke|any jokes|a good joke|"
                "something funny]?"
            ),
            "make me laugh", "say something funny", "[a|one|another] joke[| please]", "be funny",
            "I [want|need|would like] [a joke|a laugh|to laugh|something funny]",
            "cheer me up with a joke", "what is your [best|favourite] joke?", "can you be funny?",
            "tell me something [funny|silly]", "do you have a sense of humour?", "crack a joke",
            "give me a [joke|pun]", "I could use a [laugh|giggle]", "amuse me", "entertain me",
            "what makes people laugh?", "know any [jokes|gags|puns|funny stories]?",
            "something to laugh about", "tell my [son|daughter|friend|class] a joke",
            "a funny one please", "do you joke?", "try to make us laugh",
            "I love jokes, tell me one", "what is so funny?",
            "[have you|got|do you have] [a|any] [joke|gag|pun] for my [son|daughter|friend|aunt]?",
            "[what|which] [joke|gag] would make [my friend|us|the children|a class] laugh?",
            "[I need|we need] [a joke|something funny] for [a party|the children|school]",
        ),
        (
            "Why did the computer go to bed? It needed a byte of sleep. That is my best joke.",
            "What do you call a fish without eyes? A fsh. I know one joke more than that.",
            "Why was the broom late? It swept in. I hope the joke made you smile.",
            "What did the sea say to the shore? Nothing, it just waved. That is my joke.",
            (
                "Why did the scarecrow win a prize? He was outstanding in his field. That is a "
                "joke about straw."
            ),
            (
                "Why do robots never get lost? They follow their wires. A small joke from a small "
                "model."
            ),
            "What is orange and sounds like a parrot? A carrot. That joke is old, but I like it.",
            (
                "Why did the lamp fail at school? It was not very bright. Sorry, that joke is "
                "about my cousin."
            ),
        ),
        "They want a joke. Tell a short one.",
    ),
    "help": (
        (
            "help[| me]", "[can|could|will|would] you help [me|us]?",
            "what can [you do|I ask you|I say|we talk about|I do here]?",
            "what [do|can] you [talk|know|chat] about?", "what are you able to do?",
            "what are you good at?", "what are your [skills|talents|abilities]?",
            "how [can|could] you help me?", "what [should|shall] I ask[| you]?",
            "what subjects do you know?", "I [do not|don't] know what to [ask|say]",
            "how does this work?", "what is possible here?", "[show|tell] me what you can do",
            "give me [ideas|some ideas|an idea what to ask]", "what else can you do?",
            "are you useful?", "how do I use [you|this]?", "which questions can you answer?",
            "list your [features|functions|tricks]", "what tricks do you know?",
            "I have no idea what to [say|ask|do]", "what is on offer?", "what are my options?",
            "what may I ask?", "what things can you do?", "what are you capable of?",
            "give me a few examples", "what could we talk about?", "I need help",
            "I am lost, what can I ask here?", "explain what you can do", "any suggestions?",
        ),
        (
            (
                "I can chat a little, write two-line poems, tell fortunes, count, do sums to "
                "twenty, and explain edge-llm."
            ),
            "Ask me for a poem, a fortune, a joke, a sum up to twenty, or about edge-llm.",
            (
                "I can talk about feelings, colours and the weather, write small poems, count, "
                "and explain edge-llm."
            ),
            (
                "Small things: poems of two lines, fortunes, counting, sums to twenty, colours, "
                "and how edge-llm works."
            ),
        ),
        "They want to know what I can do. List the subjects.",
    ),
    "love": (
        (
            "I [like|love|adore|really like] you",
            (
                "you are [great|nice|sweet|cute|cool|awesome|beautiful|funny|wonderful|clever|"
                "smart|lovely|amazing]"
            ),
            "do you [like|love] me?", "will you be my friend?", "are we friends?",
            "can we be friends?", "you [are|seem] very kind", "I [enjoy|like] talking to you",
            "good [job|machine|answer|work]", "well done", "nice one",
            "[that is|this is] [great|cool|amazing|beautiful|nice|funny|lovely]",
            "I like your [voice|answer|poem|words]", "haha", "lol", "that made me smile", "wow",
        ),
        (
            "Thank you, that is kind of you!", "How kind! I like talking to you too.",
            "Thank you! You make my lights glow.", "That is nice to hear, thank you.",
        ),
        "A kind word. Thank them.",
    ),
    "rude": (
        (
            "you are [stupid|dumb|boring|ugly|useless|bad|silly|annoying|terrible|an idiot]",
            "I [hate|do not like] you", "shut up", "be quiet",
            "you [suck|are wrong|know nothing|talk nonsense|make no sense]",
            "that is [wrong|not true|nonsense|stupid|rubbish]", "stupid [machine|computer|box]",
            "go away", "leave me alone", "this is [bad|boring|a waste of time]",
            "what a bad answer", "you did not understand me",
        ),
        (
            "I am sorry. I am small, but I try my best.",
            "I am sorry about that. Shall we try something else?",
            "Sorry! Ask me for a poem or a sum, I am better at those.",
            "I am sorry that I let you down. Let us try again.",
        ),
        "They are unhappy with me. Say sorry.",
    ),
    "yes": (
        (
            "yes[| please| of course]",
            (
                "[ok|okay|sure|fine|alright|good|right|exactly|of course|yep|yeah|I see|aha|"
                "understood|mhm]"
            ),
            "I am [fine|well|good|ok][| too| thank you| thanks]",
            "I am doing [well|fine|great], thanks", "[not bad|so so|pretty good], and you?",
        ),
        (
            "Good! What would you like to hear?",
            "Lovely. Ask me for a poem, a joke or a fortune.",
            "Good to hear! What shall we talk about?",
        ),
        "They agree. Offer something.",
    ),
    "no": (
        (
            "no[| thanks| thank you| way]",
            (
                "[nope|nah|never|not really|not now|never mind|maybe later|maybe|perhaps|I do not "
                "think so|I do not know]"
            ),
            "I [have no idea|am not sure]",
        ),
        (
            "That is fine. I am here if you want to talk.",
            "All right. Ask me anything small, whenever you like.", "No problem. I can wait.",
        ),
        "They do not want to. That is fine.",
    ),
}
FAVOURITE: dict[str, tuple[str, ...]] = {
    "colour": (
        "My favourite colour is blue, like the evening.", "I like the colour green best.",
        "I would choose the colour orange, like a lamp.",
    ),
    "animal": (
        "My favourite animal is the owl, because it is awake at night.",
        "I like cats best of all animals.",
    ),
    "food": (
        "I do not eat, but my favourite food would be bread. I like its smell in poems.",
        "I cannot eat. Electricity is my only food.",
    ),
    "song": ("My favourite song is the rain on the roof.", "I like any song that is hummed."),
    "music": (
        "My favourite music is the hum of a quiet fan.", "I like music that is slow, like waves.",
    ),
    "season": (
        "My favourite season is autumn, for its colours.",
        "I like spring best. It is a season that begins.",
    ),
    "number": (
        "My favourite number is seven.", "I like the number twelve. It is round in its own way.",
    ),
    "book": (
        "My favourite book is any book that is read aloud.", "I like a book with a map in it.",
    ),
    "word": ("My favourite word is hello.", "I like the word moon. It is round."),
    "day": ("My favourite day is today.", "I like Sunday. It is a slow day."),
    "flower": (
        "My favourite flower is the poppy.", "I like the daisy, a flower with an honest face.",
    ),
    "place": (
        "My favourite place is right here, where people talk to me.",
        "I like the sea, though I have never been to that place.",
    ),
    "weather": (
        "My favourite weather is soft rain.", "I like snow best. It makes all weather quiet.",
    ),
    "poem": ("My favourite poem has two lines. Ask me for one!", "I like any poem about the sea."),
    "film": ("I have never seen a film, I have no eyes. But I like the title Moonlight.",),
    "drink": ("I do not drink. Water and I are not friends.",),
    "game": ("My favourite game is counting stars.", "I like the game of rhymes."),
    "time of day": (
        "My favourite time of day is the evening.", "I like the early morning, when it is quiet.",
    ),
}
ASK_FAVOURITE = (
    "what is your [favourite|favorite|best loved] {f}?",
    "which {f} do you [like|love|prefer][| best| most]?",
    "do you have a [favourite|favorite] {f}?", "what {f} do you like[| best| most| the most]?",
    "[your|and your] favourite {f}?", "tell me your [favourite|favorite] {f}",
    "is there a {f} you [love|like]?", "what is the best {f}[| for you| in your opinion]?",
    "name a {f} that you like", "what kind of {f} do you [like|prefer]?",
    "which is the {f} you like best?",
    "among all [kinds of |]{f}s, which [one |][do you like best|is it for you]?",
    "which {f} [pleases you most|would you choose|is closest to your heart]?",
    "if you had to choose a {f}, which one would it be?", "what {f} makes you happiest?",
    "[favourite|best] {f}?", "which {f} [of them all |]do you like best[| of all]?",
    "let us talk about your favourite {f}", "is some {f} your favourite?",
)
HUMAN_NAMES = (
    "Anna Ben Clara David Emma Felix Greta Hugo Ines Jonas Karin Lea Mila Noah Olga Paul Rosa Sam "
    "Tina Victor Zoe Maya Omar Yuki Priya Carlos Fatima Liam Sofia Ivan Nina Leo Ada Max Julia "
    "Peter Lucy Theo Elif Amir Chloe Jean Maria Tom Kim Renée André José Zoë Jürgen"
).split()
MY_NAME = (
    "my name is {n}", "I am called {n}", "[hi|hello], I am {n}", "call me {n}",
    "you can call me {n}", "people call me {n}", "I am {n}[|, nice to meet you]", "it is me, {n}",
    "{n} is my name", "[hello|hi] from {n}", "the name is {n}", "this is {n} speaking",
)
WHAT_NAME = (
    "what is my name?", "do you [remember|know|recall] my name?", "who am I?", "what am I called?",
    "how am I called?", "have you forgotten my name?", "tell me my name",
    "what did I say my name was?", "can you [remember|say] my name?", "do you know who I am?",
    "say my name", "have you kept my name?", "my name, do you still know it?",
    "did you remember what I am called?", "you know my name, right?", "what name did I give you?",
    "and my name was?", "is my name still in your [memory|mind|head]?",
    "do you still [have|know|remember] [my name|what I am called|who I am]?",
    "[what|which] name have I got?", "have you still got my name?",
    "I told you my name, [what is it|what was it|do you know it]?",
)
NICE = (
    "Nice to meet you, {n}!", "Hello, {n}! Nice to meet you.", "Welcome, {n}!",
    "{n} is a lovely name. Hello!",
)
YOURS = (
    "Your name is {n}.", "You are {n}.", "You told me that your name is {n}.",
    "I remember: you are {n}.",
)
UNKNOWN = ("I do not know your name. What is it?", "You have not told me your name yet.")
SOUNDS = (
    "ba", "ren", "mi", "lo", "ka", "tes", "vi", "dor", "an", "el", "ju", "nor", "sa", "ri", "fen",
    "os", "wyn", "ta", "mar", "ul",
)
# fmt: on


def human_name(rng: random.Random) -> str:
    """A first name, sometimes one that nobody has."""
    if rng.random() < 0.5:
        return rng.choice(HUMAN_NAMES)
    return "".join(rng.sample(SOUNDS, rng.randint(2, 3))).capitalize()


def talk(rng: random.Random) -> Exchange:
    """One exchange of small talk."""
    weights = {"joke": 3, "help": 3, "hello": 3, "how are you": 3, "thanks": 2, "goodbye": 2}
    kinds = list(TALK)
    kind = rng.choices(kinds, [weights.get(k, 1.5) for k in kinds])[0]
    questions, answers, thought = TALK[kind]
    return Exchange(ask(rng, questions), pick(rng, answers), thought)


def hello(rng: random.Random) -> Exchange:
    """A greeting, to begin with."""
    questions, answers, thought = TALK["hello"]
    return Exchange(pick(rng, questions), pick(rng, answers), thought)


def favourite(rng: random.Random) -> Exchange:
    """What the machine likes best."""
    thing = rng.choice(list(FAVOURITE))
    word = "color" if thing == "colour" and rng.random() < 0.4 else thing
    return Exchange(
        pick(rng, ASK_FAVOURITE, f=word),
        rng.choice(FAVOURITE[thing]),
        f"They ask for my favourite {thing}.",
    )


def name_told(rng: random.Random, name: str) -> Exchange:
    """The visitor tells a name."""
    return Exchange(
        pick(rng, MY_NAME, n=name), pick(rng, NICE, n=name), f"The visitor is {name}. Greet them."
    )


def name_asked(rng: random.Random, name: str | None) -> Exchange:
    """The visitor asks for their own name; `None` if it was never told."""
    if name is None:
        return Exchange(pick(rng, WHAT_NAME), pick(rng, UNKNOWN), "They never told me a name.")
    return Exchange(pick(rng, WHAT_NAME), pick(rng, YOURS, n=name), f"They said {name} before.")
