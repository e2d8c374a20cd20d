"""Feelings: the visitor says how it is inside, and gets a short warm word that names it."""

import random

from edge_llm.tiny.grammar.phrase import Exchange, pick

# fmt: off
# feeling: words visitors use for it | why they may feel so | what to say to it
SAD = (
    "sad;unhappy;down;blue;heartbroken;gloomy;miserable;low;tearful;in tears;depressed;melancholy;"
    "broken inside;awful;like crying"
)
HAPPY = (
    "happy;glad;cheerful;joyful;in a good mood;delighted;great;wonderful;content;on top of the "
    "world;over the moon;merry;full of joy"
)
SCARED = (
    "scared;afraid;frightened;terrified;fearful;spooked;creeped out;full of fear;shaking with fear"
)
TIRED = (
    "tired;sleepy;exhausted;worn out;weary;drained;very sleepy;dead tired;knackered;out of energy;"
    "so sleepy I could drop"
)
LONELY = "lonely;alone;left out;so alone;isolated;forgotten by everyone;without friends;abandoned"
ANGRY = (
    "angry;mad;furious;annoyed;irritated;cross;grumpy;upset with someone;full of rage;so mad I "
    "could scream;enraged"
)
BORED = "bored;so bored;bored to death;listless;fed up with waiting;dying of boredom"
PROUD = "proud;proud of myself;very proud;pleased with myself;proud as a peacock"
NERVOUS = (
    "nervous;anxious;worried;stressed;uneasy;tense;on edge;restless;under pressure;overwhelmed;"
    "panicky"
)
EXCITED = "excited;thrilled;so excited;full of anticipation;buzzing;all fired up;pumped"
CALM = "calm;peaceful;relaxed;at ease;at peace;serene"
JEALOUS = "jealous;envious;green with envy"
CONFUSED = "confused;puzzled;lost in my thoughts;mixed up;baffled"
IN_LOVE = "in love;head over heels;smitten"
SICK = "sick;ill;unwell;poorly"
GRATEFUL = "grateful;thankful;blessed"
SHY = "shy;embarrassed;ashamed;awkward;bashful"
HOMESICK = "homesick;far from home;missing home"

FEELINGS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "sad": (
        SAD,
        (
            "my [cat|dog|friend] [died|is gone|left];I [cried|have been crying] all [day|night];I "
            "lost something dear;nothing makes me smile;tears keep coming;my heart is [broken|"
            "heavy];I miss my [grandmother|father|old friend];everything went wrong today"
        ),
        (
            "I am sorry that you are sad.[| I am here, and I am listening.]",
            "Being sad is heavy.[| Stay here with me a little.]",
            "It is all right to be sad.[| It will grow lighter with time.]",
            "I hear that you are sad. I wish I could lend you some sunshine.",
        ),
    ),
    "happy": (
        HAPPY,
        (
            "today is the best day;I cannot stop smiling;everything is going so well;life is "
            "[good|beautiful] today;I [got|had] good news;I could dance all day"
        ),
        (
            "How lovely that you are happy![| It makes the whole room brighter.]",
            "I am glad that you are happy.[| Keep a little for tomorrow.]",
            "Happy is a good thing to be.[| Thank you for sharing it.]",
            "That is wonderful. Happy looks good on you.",
        ),
    ),
    "scared": (
        SCARED,
        (
            "the dark [scares|frightens] me;I had a nightmare;I think there is a monster under my "
            "bed;thunder frightens me;this place gives me the creeps"
        ),
        (
            "It is all right to be scared.[| Breathe slowly, you are not alone.]",
            "Being scared is no shame.[| Even brave people know it.]",
            "I hear that you are scared.[| Take a slow breath with me.]",
            "When I talk, the dark gets smaller. You need not stay scared.",
        ),
    ),
    "tired": (
        TIRED,
        (
            "I [did not sleep|could not sleep|slept badly][| last night];I can hardly keep my "
            "eyes open;I need a nap;I have been [working|walking] all day;my legs are heavy;I "
            "keep yawning"
        ),
        (
            "You sound tired.[| Sit down and rest a while.]",
            "If you are tired, rest is the best idea.[| The world can wait.]",
            "Being tired means that you did a lot.[| Be kind to yourself tonight.]",
            "Tired eyes need a soft pillow. Sleep well tonight.",
        ),
    ),
    "lonely": (
        LONELY,
        (
            "nobody [calls|talks to|visits|likes] me;I have no [friends|one to talk to];everyone "
            "has left;there is no one at home;I miss having company"
        ),
        (
            "I am sorry that you feel lonely.[| I am glad that you talk to me.]",
            "Being lonely is hard.[| For this moment you have company.]",
            "You need not be lonely here.[| Tell me about your day.]",
            "Lonely hearts are closer together than they think.",
        ),
    ),
    "angry": (
        ANGRY,
        (
            "my [brother|boss|neighbour] makes me [so mad|furious];I want to [shout|scream|break "
            "something];I had a fight with my [friend|sister];that was so unfair;someone was rude "
            "to me"
        ),
        (
            "I hear that you are angry.[| Breathe in, count to five, breathe out.]",
            "Being angry takes a lot of strength.[| Let it pass like a storm.]",
            "It is all right to be angry.[| Tell me what happened.]",
            "Angry is loud. Let us be quiet together for a moment.",
        ),
    ),
    "bored": (
        BORED,
        (
            "there is nothing to do;nothing [happens|ever happens] here;I do not know what to do "
            "with myself;this is so dull;time goes so slowly"
        ),
        (
            "Bored? Ask me for a poem or a fortune.",
            "If you are bored, let us count to ten or make a rhyme.",
            "Being bored is where good ideas begin.[| Shall I tell you a joke?]",
            "I can help if you are bored: ask me for a joke.",
        ),
    ),
    "proud": (
        PROUD,
        (
            "I [won|won a prize|passed my exam|finished my work|learned to swim|made it];I got "
            "[the job|a medal|good marks]"
        ),
        (
            "You can be proud.[| That was well done.]", "Well done! Be proud of it.",
            "I am proud with you.[| Tell everyone about it.]",
            "Proud is a fine way to stand. Congratulations!",
        ),
    ),
    "nervous": (
        NERVOUS,
        (
            "I have [an exam|a test|a big day|a job interview] tomorrow;my hands are shaking;I "
            "have to speak in front of people;what if it goes wrong;I worry about everything"
        ),
        (
            "It is normal to be nervous.[| Breathe slowly, you will do fine.]",
            "Being nervous shows that it matters to you.",
            "I hear that you are nervous.[| One step at a time.]",
            "Nervous hearts beat fast. Let yours slow down, you can do it.",
        ),
    ),
    "excited": (
        EXCITED,
        (
            "I can hardly wait;tomorrow is my birthday;we are going on [holiday|a journey];I "
            "cannot sit still"
        ),
        (
            "How exciting![| Enjoy every minute of it.]",
            "I can tell that you are excited.[| I am excited with you.]",
            "Being excited is half the fun.", "Excited is a bright colour. Wear it well!",
        ),
    ),
    "calm": (
        CALM, "nothing can upset me today;my mind is [quiet|still]",
        (
            "Calm is a good place to be.[| Stay as long as you like.]",
            "How nice that you are calm.", "I like calm visitors.[| Let us enjoy the quiet.]",
        ),
    ),
    "jealous": (
        JEALOUS, "she has everything and I do not;I want what my brother has",
        (
            "Everyone is jealous now and then.[| You have gifts of your own.]",
            "Being jealous stings. It passes when you look at what is yours.",
        ),
    ),
    "confused": (
        CONFUSED, "I do not understand anything;nothing makes sense;my head is spinning",
        (
            "It is all right to be confused.[| Take it one small piece at a time.]",
            "Being confused is how learning begins.",
            "If you are confused, ask me a small question.",
        ),
    ),
    "in love": (
        IN_LOVE,
        (
            "I [met|found] the love of my life;I cannot stop thinking about [her|him|them];I have "
            "a crush"
        ),
        (
            "Being in love is a wonder.[| Enjoy it. ♥]", "How beautiful to be in love![| ♥]",
            "In love! The whole world must look brighter.",
        ),
    ),
    "sick": (
        SICK,
        (
            "I have a [cold|fever|headache];my [stomach|head|throat] hurts;I caught the flu;I "
            "have to cough all the time"
        ),
        (
            (
                "I am sorry that you are sick.[| Rest, drink something warm, and ask a doctor if "
                "it stays.]"
            ),
            "Being sick is no fun. Get well soon!",
            "Get well soon. If you feel very sick, please ask a doctor.",
        ),
    ),
    "grateful": (
        GRATEFUL, "I have so much to be thankful for;people were so kind to me",
        (
            "Being grateful warms the heart.",
            "How good to be grateful.[| Thank you for telling me.]",
            "Grateful people shine a little.",
        ),
    ),
    "shy": (
        SHY, "I do not dare to speak;I blush so easily;I do not know what to say to people",
        (
            "It is all right to be shy.[| Here you can take your time.]",
            "Being shy is just being careful with your heart.",
            "Shy is fine. I will not tell anyone.",
        ),
    ),
    "homesick": (
        HOMESICK, "I want to go home;I miss my [country|family|own bed]",
        (
            "Being homesick means that somewhere you are loved.",
            "I am sorry that you are homesick.[| Tell me about your home.]",
            "Homesick hearts know the way home.",
        ),
    ),
}
FEEL = (
    "I am {w}", "I am {w} [today|now|tonight|right now|these days|at the moment|this morning]",
    "I feel {w}", "I feel {w} [today|now|tonight|right now|this evening]",
    "I am [so|very|really|a bit|a little|kind of|quite|pretty|feeling] {w}",
    "I feel [so|very|really|a bit|a little|quite|rather] {w}",
    "[today|somehow|lately|sometimes|right now] I [am|feel] {w}",
    "I have been [so |feeling |]{w} [lately|all day|all week|since yesterday|for days]",
    "I think I am {w}", "what [can|should|do] I do [if|when] I [am|feel] {w}?",
    "[everything|this|the news|my day] makes me {w}", "do you know what it is like to be {w}?",
    "[help|help me], I am {w}", "why am I so {w}?", "I woke up {w}", "{w}", "I just feel {w}",
    "[honestly|to be honest], I am {w}", "my day made me feel {w}", "it makes me {w}",
    "I am [terribly|awfully|totally|completely|ever so|extremely] {w}",
    "I feel [terribly|awfully|totally|completely|ever so] {w}",
    "[oh|ugh|well|phew], I am [so |]{w}",
    "[after|since] the [concert|war|meeting|long day|holidays] I [feel|am] {w}",
    "and now I am [so |]{w}",
    "I get [so |]{w} [in the evening|on Sundays|here|at night|when I wait]",
    "[the film|my brother|that song|the rain|school|work|the trip] [makes|made] me [so |]{w}",
    "I am {w}, [what now|what helps|can you help|say something nice]?",
    "[nobody knows|I have to tell you|I must say] that I am {w}", "I am still {w}",
    "[it is hard|it is strange] to be [so |]{w}", "why do I feel {w}?",
    "[we are|my friend is] all {w} [today|here]",
)
MOOD = (
    "I feel {w} because {why}",
    "{why}",
    "{why}",
    "{why}, and I am {w}",
    "{why}. I feel {w}",
    "I am {w}. {why}",
    "{why} [today|lately|you know|and it shows]",
    "[you know|the thing is|look], {why}",
)
# fmt: on


def feeling(rng: random.Random) -> Exchange:
    """A feeling, said straight or by what caused it."""
    name = rng.choice(
        [
            *FEELINGS,
            "sad",
            "happy",
            "scared",
            "tired",
            "lonely",
            "angry",
            "bored",
            "proud",
            "nervous",
        ]
    )
    words, reasons, answers = FEELINGS[name]
    word = rng.choice((name, rng.choice(words.split(";"))))
    why = pick(rng, reasons.split(";"))
    question = pick(rng, FEEL if rng.random() < 0.6 else MOOD, w=word, why=why)
    thought = pick(
        rng,
        ("The visitor is {n}. A warm word helps.", "They feel {n}. Name it and be kind."),
        n=name,
    )
    return Exchange(question, pick(rng, answers), thought)
