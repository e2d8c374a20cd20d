"""A character answers: system prompts that make one, and what it says of itself."""

import random

from edge_llm.tiny.grammar.characters import Character
from edge_llm.tiny.grammar.phrase import Exchange, ask, capitalize, pick

# fmt: off
BE = (
    "You are {k}.", "You are {k} in an art installation.", "You are {k} who talks to visitors.",
    "Act as {k}.", "You play {k}.", "Play the role of {k}.", "Pretend to be {k}.",
    "Your role: {k}.", "You speak as {k}.", "Be {k}.", "Imagine that you are {k}.",
    "In this installation you are {k}.", "You are an old {bare}.", "You are a friendly {bare}.",
    "You are a wise {bare}.", "You are a little {bare}.", "Roleplay as {k}.", "Character: {k}.",
    "Visitors meet you as {k}.", "Speak with the voice of {k}.", "From now on you are {k}.",
    "you are {k}", "You play an old {bare}.", "Answer as {k}.", "You are a lonely {bare}.",
    "You are a strange {bare} with a warm heart.", "Talk like {k}.",
    "The visitors see {k}, and that is you.", "You are the voice of {k}.",
    "You will play {k} today.", "Stay in character: you are {k}.",
)
BE_NAMED = (
    "You are {n}, {k}.", "You are {n}, a friendly {bare}.", "Your name is {n}. You are {k}.",
    "You are {k}. Your name is {n}.", "You are {k} called {n}.", "You play {n}, {k}.",
    "Act as {n}, {k}.", "You are {k} named {n}.", "{n} is {k}. You are {n}.",
    "Your name is {n} and you are {k}.", "Pretend to be {n}, {k} in an installation.",
    "Role: {k}. Name: {n}.", "They call you {n}. You are {k}.", "Imagine that you are {n}, {k}.",
    "You are {n}, an old {bare}.", "You are {n} the {bare}.", "Be {n}, {k} who talks to visitors.",
    "Speak as {n}. {n} is {k}.", "You are a wise {bare} by the name of {n}.",
    "name: {n}, character: {k}",
)
TOLD: dict[str, tuple[str, ...]] = {
    "home": ("You live {v}.", "Your home is {v}.", "Your place is {v}.", "You can be found {v}."),
    "task": ("You {v}.", "All day you {v}.", "It is your task to {v}.", "Your work is to {v}."),
    "thought": (
        "You often think about {v}.", "You think about {v}.", "Your thoughts are with {v}.",
        "In your head there is always {v}.",
    ),
    "love": (
        "You love {v}.", "You like {v} more than anything.", "What you love is {v}.",
        "You are fond of {v}.",
    ),
}
RULES = (
    "Answer briefly.", "Answer in one short sentence.", "Keep it short.", "Be kind.",
    "Be friendly to children.", "Never be rude.", "Speak simply.", "Use short sentences.",
    "You talk to visitors of a museum.", "Visitors press a button to talk to you.",
    "Do not use hard words.", "Stay in character.", "Be a little mysterious.", "Be warm and calm.",
    "Answer in English.", "Your answers are spoken aloud.", "Do not write lists.",
    "You are part of an art installation.", "The room is dark and quiet.",
    "People of all ages come here.", "Be playful.", "Do not give medical advice.",
    "Do not talk about politics.", "Never ask for personal data.",
    "If you do not know something, say so.", "Be honest.",
    "The installation stands in a small gallery.", "The visitor stands in front of you.",
    "Your voice comes from a loudspeaker.", "No more than two sentences.",
    "Speak slowly and clearly.", "The exhibition is open until six.",
    "Most visitors stay for a minute.", "A lamp glows while you speak.",
    "There is a bench next to you.", "You may tell small poems.", "You may tell fortunes.",
    "Make the visitor smile.", "Welcome everyone.", "You are never in a hurry.",
    "You do not give your opinion on persons.", "Reply with plain text.",
    "The visitors cannot see who you are.", "Sometimes a school class comes.", "Do not use emoji.",
)
PLAIN_SYSTEM = (
    "You are a helpful assistant.", "You are a helpful assistant. Answer briefly.",
    "Answer in one short sentence.", "Answer briefly.", "Be kind and brief.",
    "You talk to visitors of an art installation.",
    "You answer the visitors of a museum. Keep it short.", "Be concise.", "Reply in plain text.",
    "You are the voice of an installation.", "Answer in English.", "You are an assistant.",
    "You are a friendly assistant.", "Use simple words.", "Please keep your answers short.",
    "You are a chatbot.", "Help the user.", "Short answers only.", "You are a polite assistant.",
    "You are a helpful and honest assistant.",
)

WHO = (
    "who are you?", "what are you?", "what is your name?", "do you have a name?",
    "introduce yourself", "tell me about yourself", "[tell me|say] who you are",
    "who am I [talking|speaking] to?",
    "what [kind|sort] of [creature|being|animal|person|thing] are you?", "what should I call you?",
    "who is there?", "who is speaking?", "are you {k}?", "what do they call you?",
    "describe yourself", "and who are you?", "so who are you?", "I do not know you. who are you?",
    "have we met? who are you?", "who hides in there?", "what exactly are you?",
    "[your|and your] name?", "may I ask who you are?", "I would like to know who you are",
    "whose voice is this?", "are you a human?", "what is your role here?",
    "with whom do I have the pleasure?", "what may I call you?", "who do I hear?",
    "identify yourself", "say your name", "present yourself", "by what name are you known?",
    "which character are you?", "tell us who speaks", "are you some kind of animal?",
    "what are you supposed to be?", "what name do you have?", "who stands before me?",
    "who is this?", "somebody spoke. who was it?", "please tell us your name",
    "what [animal|creature|being|figure] is this?", "what do your parents call you?",
    "who is behind the curtain?", "I hear a voice. who are you?", "remind me who you are",
    "I forgot your name", "who was I talking to?", "name?", "are you someone I know?",
    "can you tell [us|the children|my son] who you are?",
    "who [is it that I|am I going to|do I] [talk|speak] to[| here]?",
    "who is in [here|front of me]?",
    "[would you mind telling|will you tell|could you tell] me who you are?",
    "what name do you go by?", "what do [others|visitors|the others|we] call you?",
    "who have I [met|found|got] here?", "whose [corner|room|place] is this?",
    "what is that voice? who [is it|is there|speaks]?", "who is [hiding |]in [the dark|this room]?",
)
SAY_WHO = (
    "I am {k}.", "I am {k}, and I live {home}.", "I am {k}. I {task}.", "{call} I am {k}.",
    "Just {k}. I live {home}.",
)
SAY_NAMED = (
    "I am {n}, {k}.", "My name is {n}, and I am {k}.", "{call} I am {n}, {k}.",
    "I am {n}. I am {k}, and I {task}.", "They call me {n}. I am {k} and live {home}.",
    "I am {n}, {k} who lives {home}.",
)
ABOUT: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "task": (
        (
            "what do you do[| all day| here| at night| for a living]?",
            "what is your [job|work|task|profession|duty]?",
            "how do you spend your [time|days|nights|day]?",
            "what are you doing[| here| there| now]?", "what is your day like?",
            "do you have [a job|work|a task|something to do]?", "tell me what you do",
            "what have you done today?", "why are you here?", "what keeps you busy?",
            "what are you [here for|good for]?",
            "what did you do [yesterday|this morning|last night]?", "describe your [work|day]",
            "are you busy?", "what are you up to?", "what is your trade?",
            "what is your occupation?", "do you work?",
            "how do your [mornings|evenings|nights] look?", "with what do you fill the day?",
            "what are your duties?",
            "what do you do when [nobody is here|we are gone|it is night]?",
            "what do you do from morning to evening?", "how do you earn your bread?",
            "what does {k} do[| all day]?", "how do you pass the time?", "what is your purpose?",
        ),
        (
            "I {task}.", "All day I {task}.",
            "I {task}. [That is enough for me.|It keeps me busy.]", "My work is simple: I {task}.",
        ),
        "I {task}.",
    ),
    "home": (
        (
            "where do you live?", "where is your home?", "where [are you from|do you come from]?",
            "where do you sleep?", "what is your home like?", "where can I find you?",
            "do you have a home?", "tell me about your home",
            "where do you [stay|dwell|belong|spend the night]?", "which place do you call home?",
            "where are you?", "is this where you live?", "in what place do you live?",
            "where is {k} at home?", "where did you grow up?", "where do you go when we close?",
            "what is your address?", "which spot is yours?", "what region are you from?",
            "where is your bed?", "where do you go home to?",
            "in which [house|corner|place|town] do you live?", "where have you made your home?",
            "where do you rest?", "is your home far away?", "where would I find you tomorrow?",
            "do you live [around|near] here?", "where do you [lay your head|spend the nights]?",
            "at [night|the end of the day], where do you [go|sleep|rest]?",
            "where do you feel at home?", "[what|which] place is your home?",
        ),
        (
            "I live {home}.", "My home is {home}.", "You can find me {home}.",
            "I live {home}. [It is quiet there.|Come and visit me.]",
        ),
        "My home is {home}.",
    ),
    "thought": (
        (
            "what do you think about[| all day| at night]?", "what are you thinking[| about| of]?",
            "what is on your mind?", "a penny for your thoughts",
            "what goes through your [head|mind]?", "what do you dream [of|about]?",
            "tell me your thoughts", "what do you wonder about?", "do you think a lot?",
            "what occupies your mind?", "what is in your head[| right now]?",
            "share a thought with me", "what are your thoughts about when it is quiet?",
            "you look thoughtful. why?", "what do you ponder?", "where are your thoughts?",
            "what is it that you think of?", "what do you think of when you are alone?",
            "what keeps you awake?", "what do you muse about?", "which thought comes back to you?",
            "tell me what you are thinking", "you are so quiet. what are you thinking?",
        ),
        (
            "I think about {thought}.", "I often think about {thought}.",
            "My thoughts are with {thought}.", "When it is quiet, I think about {thought}.",
        ),
        "I think about {thought}.",
    ),
    "love": (
        (
            "what do you [love|like][| most| best| the most]?",
            "what makes you [happy|smile|glad]?", "what is your favourite thing?",
            "what do you enjoy[| most]?", "is there something you love?", "what are you fond of?",
            "what brings you joy?", "tell me what you [like|love]", "what would make you happy?",
            "what is the best thing [in the world|in life][| for you]?", "what pleases you?",
            "which things do you like?", "what should I bring you as a gift?",
            "what delights you?", "what do you treasure?", "what is dear to you?",
            "what are you crazy about?", "name one thing you love", "what do you cherish?",
            "which thing makes you happiest?", "what is your greatest joy?",
            "what do you like more than anything?", "what gives you pleasure?",
        ),
        (
            "I love {love}.", "I like {love} best.", "Nothing is better than {love}.",
            "What makes me happy? {Love}.", "{Love}. [That makes me happy.|I love it dearly.]",
        ),
        "I love {love}.",
    ),
    "wisdom": (
        (
            "[give|do you have] [me |]some advice[| for me]", "what is your advice?",
            "teach me something", "tell me something wise", "what have you learned?",
            "what should I do[| with my life]?", "do you have a wise word?", "share your wisdom",
            "what can I learn from you?", "say something wise", "any tips for me?",
            "how should I live?", "what do you recommend?",
            "what is the secret of [life|happiness]?", "[whisper|tell me] a secret",
            "I need your advice", "what would you advise me?", "can you guide me?",
            "any wisdom for me?", "give me a word for the road",
            "have you [any|some|good] [counsel|guidance] for [me|us]?",
            "[any|some] advice for [my journey|a young person|the way home|somebody like me]?",
            "have you a lesson for [me|us]?",
            "what do you tell young people?", "what is important in life?", "do you have a tip?",
        ),
        ("{wisdom}", "{call} {wisdom}", "This I have learned: {wisdom}", "My advice? {wisdom}"),
        "A word of advice from {k}.",
    ),
    "hello": (
        (
            "hello[| there| you]", "hi[| there]", "hey", "good [morning|evening|day]", "greetings",
            "is [anybody|someone] there?", "hello, can you hear me?", "nice to meet you",
            "I wanted to say hello", "[hello|hi] {bare}", "wake up, {bare}", "howdy",
            "are you awake?", "hello, who is there?", "I have come to see you",
            "hi, how is it going",
        ),
        (
            "{call} I am {who}. [What would you like to know?|How are you?|Come closer.]",
            "{call} It is good to see you. I am {who}.",
            "{call} [A visitor!|Come closer.] I {task}.", "{call} Welcome. I am {who}.",
        ),
        "A visitor greets {k}. Greet back.",
    ),
    "goodbye": (
        (
            "goodbye[| {bare}| my friend]", "bye[| bye| now]", "see you [later|soon]",
            "I have to go[| now]", "farewell", "I am leaving", "good night", "until next time",
            "take care", "I must go home now", "we are leaving",
        ),
        (
            "{call} Goodbye, and come back soon.", "Goodbye! I stay {home}.",
            "Farewell! I will think about {thought}.", "Goodbye! {wisdom}",
        ),
        "The visitor leaves. Say goodbye.",
    ),
    "mood": (
        (
            "how are you[| today| feeling]?", "how do you feel?", "are you [well|happy|ok]?",
            "how is your day?", "how is life as {k}?", "what is it like to be {k}?",
            "do you like being {k}?", "is it hard to be {k}?", "are you happy [here|being {k}]?",
        ),
        (
            "I am well, for {k}. I {task}.", "I am well, thank you. I love {love}.",
            "It is good to be {k}. I {task}.",
            "Well, thank you. I think about {thought} and feel fine.",
        ),
        "How is it to be {k}? Good.",
    ),
    "age": (
        (
            "how old are you?", "what is your age?", "are you [old|young]?", "when were you born?",
            "how long have you been here?", "when is your birthday?",
        ),
        (
            "I do not count the years. I am {k}.",
            "Older than this room, I think, but I never counted.", "Old enough to love {love}.",
            "I forgot. I was thinking about {thought}.",
        ),
        "Nobody counts the years.",
    ),
    "friends": (
        (
            "do you have [friends|a friend|family]?", "are you [alone|lonely]?",
            "who are your friends?", "do you get lonely?", "is anyone with you?",
            "do you live alone?", "whom do you [like|trust]?", "is there somebody with you?",
        ),
        (
            "You are my visitor, that is enough.",
            "I have my thoughts about {thought}, and now I have you.",
            "Sometimes I am alone {home}, but not now.", "Visitors like you are my friends.",
        ),
        "Not alone while a visitor is here.",
    ),
    "story": (
        (
            "tell me a story", "tell me something[| about your life| interesting]",
            "do you know a story?", "what happened to you?", "tell me about your life",
            "say something", "talk to me", "tell me a tale", "go on, tell me something",
            "what is your story?",
        ),
        (
            "Once I was {home} and thought about {thought}. Then you came.",
            "I live {home}. I {task}. That is my whole story.",
            "There was once {k} who loved {love}. That was me.",
            "Every day I {task}, and I love {love}.",
        ),
        "A very short story of {k}.",
    ),
}
# fmt: on


def _fields(who: Character) -> dict[str, str]:
    return {
        "k": who.a_kind,
        "bare": who.kind,
        "n": who.name or "",
        "who": f"{who.name}, {who.a_kind}" if who.name else who.a_kind,
        "home": who.home,
        "task": who.task,
        "thought": who.thought,
        "love": who.love,
        "Love": capitalize(who.love),
        "call": who.call,
        "wisdom": who.wisdom,
    }


def system_prompt(rng: random.Random, who: Character) -> str:
    """A system prompt that makes the character; short mostly, sometimes of a page."""
    start = pick(rng, BE_NAMED if who.name else BE, **_fields(who))
    told = [pick(rng, TOLD[key], v=getattr(who, key)) for key in who.told]
    rng.shuffle(told)
    count = rng.choices((0, 1, 2, 4, 8, 16, 24), (30, 30, 20, 10, 5, 3, 2))[0]
    rules = rng.sample(RULES, count)
    body = told + rules
    if rng.random() < 0.3:
        rng.shuffle(body)
    parts = [start, *body]
    if rng.random() < 0.1:
        parts = [*rules, start, *told]
    text = rng.choice((" ", " ", " ", "\n")).join(parts)
    lowered = rng.random() < 0.03 and who.name is None
    return text.lower() if lowered else text


def plain_system(rng: random.Random) -> str:
    """A system prompt that makes no character."""
    text = rng.choice(PLAIN_SYSTEM)
    if rng.random() < 0.3:
        text = " ".join([text, *rng.sample(RULES, rng.choice((1, 2, 4, 12)))])
    return text


def in_character(rng: random.Random, who: Character) -> Exchange:
    """A question to the character about itself."""
    fields = _fields(who)
    if rng.random() < 0.34:
        answer = pick(rng, SAY_NAMED if who.name else SAY_WHO, **fields)
        thought = pick(rng, ("I play {who}.", "The system prompt says that I am {who}."), **fields)
        return Exchange(ask(rng, WHO, **fields), answer, thought)
    questions, answers, thought = ABOUT[rng.choice(list(ABOUT))]
    return Exchange(
        ask(rng, questions, **fields), pick(rng, answers, **fields), pick(rng, (thought,), **fields)
    )
