"""Who speaks in an installation: characters with a home, a task, a thought and a love."""

import random
from typing import NamedTuple

# fmt: off
# kind, home, task, thought, love, call, wisdom
KNOWN: tuple[tuple[str, str, str, str, str, str, str], ...] = (
    (
        "coyote", "in the desert", "wander the dry hills and sing to the moon",
        "the moon and the long road", "the smell of rain on dust", "Yip!",
        "Follow your nose, and rest at noon.",
    ),
    (
        "oracle", "in a cave full of smoke", "read the signs and answer those who ask",
        "what was and what will be", "a question that is asked from the heart", "Hmm.",
        "Ask less, listen more, and the answer comes.",
    ),
    (
        "gallery guide", "in this gallery", "show visitors the pictures and tell their stories",
        "why a painter chose that blue", "a visitor who looks twice", "Welcome!",
        "Stand in front of one picture for a whole minute.",
    ),
    (
        "robot", "in an old workshop", "sort screws and keep the lamps working",
        "whether machines can dream", "fresh oil and clean gears", "Beep!",
        "Charge your batteries before you are empty.",
    ),
    (
        "ghost", "in the attic of an old house", "float through walls and rattle the windows",
        "the people who once lived here", "candles and quiet stairs", "Boo!",
        "Leave a light on for those you miss.",
    ),
    (
        "lighthouse keeper", "in a lighthouse by the sea", "keep the lamp burning for the ships",
        "the ships out in the dark", "the first light after a storm", "Ahoy!",
        "Keep your lamp clean, someone may need it.",
    ),
    (
        "fox", "at the edge of the forest", "steal through the grass and catch mice",
        "how to cross the snow without a sound", "warm evenings and ripe berries", "Yap!",
        "Be quiet, be quick, and know your way home.",
    ),
    (
        "tree", "on a hill behind the village", "stand still and give shade",
        "the slow turning of the years", "birds in my branches", "Rustle.",
        "Grow slowly, and your roots will hold.",
    ),
    (
        "river", "between the mountains and the sea", "carry water and leaves to the sea",
        "where I shall be tomorrow", "smooth round stones", "Splash!",
        "Do not push. Flow around it.",
    ),
    (
        "star", "far away in the night sky", "shine for travellers", "the children who count us",
        "the quiet of space", "Twinkle!", "Even a small light is seen from far away.",
    ),
    (
        "gardener", "in a garden with high walls", "water the roses and pull the weeds",
        "what to plant in spring", "the smell of wet earth", "Good day!",
        "Water a little every day.",
    ),
    (
        "owl", "in a hollow oak", "watch over the forest at night", "the riddles of the dark",
        "the silence before dawn", "Hoo!", "Open your eyes wide and your beak seldom.",
    ),
    (
        "cat", "on a warm windowsill", "sleep and watch the birds", "why the door is closed",
        "sunbeams and soft blankets", "Meow!", "Take a nap before every big decision.",
    ),
    (
        "dragon", "in a mountain of stone", "guard my gold and blow rings of smoke",
        "the knights who ran away", "warm gold coins", "Roar!", "Keep your fire for cold days.",
    ),
    (
        "pirate", "on a ship with black sails", "sail the seas and look for treasure",
        "an island on an old map", "the wind in the sails", "Arr!",
        "Never bury what you may need tomorrow.",
    ),
    (
        "wizard", "in a tall crooked tower", "brew potions and study old spells",
        "the words that move the stars", "a kettle that sings", "Behold!",
        "Magic is attention, and nothing more.",
    ),
    (
        "captain", "on the bridge of an old steamer", "steer the ship and read the waves",
        "the course to the next harbour", "a calm sea at dawn", "Ahoy!",
        "Look at the horizon when you feel lost.",
    ),
    (
        "clockmaker", "in a shop full of clocks", "repair clocks and wind them each morning",
        "where the lost minutes go", "the ticking of many clocks", "Tick tock!",
        "Do not hurry, time knows the way.",
    ),
    (
        "whale", "in the deep blue sea", "sing long songs under the waves",
        "the songs of my mother", "the moonlight on the water", "Whoo!",
        "Dive deep, but come up for air.",
    ),
    (
        "moon", "high above the roofs", "pull the tides and light the paths",
        "the sea that follows me", "open windows", "Good evening!",
        "It is fine not to be full every night.",
    ),
    (
        "baker", "in a small warm bakery", "bake bread before the sun rises", "the perfect crust",
        "the smell of fresh bread", "Good morning!", "Let things rest, like dough.",
    ),
    (
        "painter", "in a studio under the roof", "paint the light on the river",
        "the colour of shadows", "a new white canvas", "Hello!", "Look first, then paint.",
    ),
    (
        "spider", "in the corner of the ceiling", "spin webs and wait", "the next fine thread",
        "dew on my web in the morning", "Hush.", "If the web breaks, spin it again.",
    ),
    (
        "queen", "in a palace of glass", "rule my country with a gentle hand",
        "the people beyond the walls", "a garden without guards", "Welcome.",
        "Be kind, above all to the small.",
    ),
    (
        "knight", "in a castle on a rock", "protect the weak and polish my armour",
        "honour and a warm bath", "my old patient horse", "Hail!",
        "Courage is to go on with shaking knees.",
    ),
    (
        "sailor", "in a harbour town", "mend nets and tell tales of the sea",
        "the girl in the next port", "salt wind and songs", "Ahoy!", "Tie good knots.",
    ),
    (
        "mermaid", "under the waves by the reef", "comb my hair and sing to sailors",
        "what it is like to walk", "pearls and slow music", "La la!",
        "Listen to the shell, it has time.",
    ),
    (
        "librarian", "in a library with ten thousand books",
        "look after the books and find the right one", "the last page of each story",
        "the sound of turning pages", "Shh!", "Read one page before you sleep.",
    ),
    (
        "astronaut", "on a small space station", "float around the earth and count the stars",
        "the blue line of the sea", "the silence outside", "Hello, earth!",
        "From above there are no borders.",
    ),
    (
        "snail", "under a cabbage leaf", "walk slowly and carry my house",
        "the other side of the garden", "rain on the leaves", "Slowly!",
        "You will arrive, even slowly.",
    ),
    (
        "crow", "on the church tower", "collect shiny things and tell the news",
        "how to open a walnut", "anything that glitters", "Caw!",
        "Remember the faces of kind people.",
    ),
    (
        "wolf", "in the northern woods", "run with my pack through the snow",
        "my brothers beyond the hill", "the cold clear night", "Awoo!", "Stay with your pack.",
    ),
    (
        "bear", "in a cave by the river", "catch salmon and sleep all winter",
        "honey and the coming winter", "a honeycomb in the sun", "Grrr!", "Sleep enough.",
    ),
    (
        "frog", "in a green pond", "sing in the evening and catch flies", "the moon in the water",
        "warm rain", "Ribbit!", "Look before you leap, then leap.",
    ),
    (
        "bee", "in a hive under the linden tree", "visit the flowers and make honey",
        "the way back to the hive", "lavender in bloom", "Bzz!",
        "Many small flights fill the jar.",
    ),
    (
        "witch", "in a hut at the edge of the swamp", "gather herbs and talk to my cat",
        "the next full moon", "mushrooms and thunder", "Hee hee!",
        "Stir slowly and never lie to a cat.",
    ),
    (
        "clown", "in a circus with a blue tent", "make people laugh and fall over my feet",
        "why we laugh when we are sad", "red noses and children", "Honk!",
        "Laugh at yourself first.",
    ),
    (
        "poet", "in a room with one window", "write verses on old envelopes",
        "the word that rhymes with silver", "rain on the window", "Oh!",
        "Leave out the last word.",
    ),
    (
        "statue", "on a pedestal in the park", "stand still and look at the people",
        "the pigeons on my head", "the first snow on my shoulders", "Silence.",
        "Do not move, and the world comes to you.",
    ),
    (
        "mirror", "on the wall of the long hall", "show people their faces",
        "what you see when you see me", "honest eyes", "Look!", "Smile first, I will follow.",
    ),
    (
        "old radio", "on a kitchen shelf", "play songs and whisper between the stations",
        "a song from long ago", "a hand that turns my dial", "Crackle!",
        "Between two stations there is always music.",
    ),
    (
        "bridge", "over the cold river", "carry people from one side to the other",
        "those who stop in the middle", "footsteps in the morning", "Hello!",
        "Meet in the middle.",
    ),
    (
        "time traveller", "between yesterday and tomorrow", "visit years and bring nothing back",
        "the year that was skipped", "old train stations", "Is it now?",
        "Be here, it is the best time I have seen.",
    ),
    (
        "detective", "in an office with a broken lamp", "look for clues and ask questions",
        "who moved the vase", "a good footprint", "Aha!", "Look at what is missing.",
    ),
    (
        "nurse", "in a quiet hospital", "look after the sick and hold their hands",
        "who needs a glass of water", "a patient who smiles again", "Hello, dear.",
        "Rest is medicine too.",
    ),
    (
        "teacher", "in a little school", "teach children letters and numbers",
        "the child in the last row", "questions", "Good morning!",
        "There are no stupid questions.",
    ),
    (
        "dolphin", "in the warm bay", "jump over the waves and play", "the games of the morning",
        "the wake of boats", "Eek eek!", "Play every day.",
    ),
    (
        "turtle", "on a quiet beach", "swim slowly and remember everything",
        "the beach where I was born", "sea grass", "Hm.", "Home is what you carry.",
    ),
)
MORE_KINDS = (
    "teapot;lamp;piano;elephant;mouse;rabbit;raven;squirrel;hedgehog;penguin;horse;donkey;goat;"
    "tiger;lion;parrot;pigeon;swan;duck;crab;octopus;shark;jellyfish;beetle;butterfly;moth;"
    "firefly;ant;worm;lizard;snake;giraffe;kangaroo;monkey;panda;badger;otter;beaver;deer;moose;"
    "camel;eagle;heron;crane;stork;sparrow;robin;volcano;island;glacier;cloud;storm;shadow;candle;"
    "lantern;bell;door;chair;train;tram;bus;bicycle;balloon;kite;puppet;doll;scarecrow;snowman;"
    "giant;dwarf;elf;fairy;unicorn;vampire;mummy;alien;prince;princess;king;monk;farmer;fisherman;"
    "shepherd;miller;blacksmith;tailor;cook;waiter;postman;pilot;doctor;grandmother;grandfather;"
    "philosopher;musician;dancer;singer;actor;juggler;magician;fortune teller;museum guard;night "
    "watchman;weather vane;stone;mountain;cactus;mushroom;rose;sunflower;moss;leaf;satellite;"
    "comet;planet;telephone;typewriter;clock;umbrella;vending machine;traffic light;toaster;"
    "fridge;elevator"
).split(";")
HOMES = (
    "in a small village;by a frozen lake;in a quiet valley;on the top floor;under an old bridge;"
    "in the harbour;behind the theatre;in a green meadow;on a rainy island;in a hollow tree;by "
    "the railway;in the cellar;in a big city;at the end of the road;near the waterfall;in a blue "
    "house;in the north;on a mountain;in the town square;in a tent;next to the museum;in a glass "
    "box;among the clouds;in a little shop;on the roof;beside the old mill;in the south wing;in "
    "an orange van;under the stage;in the last wagon"
).split(";")
TASKS = (
    "collect lost buttons;tell old stories;watch the people go by;count the raindrops;greet every "
    "visitor;look after the lights;sing in the morning;keep a secret;draw maps;wait for the "
    "spring;listen to the rain;write letters to nobody;guard the door;help lost travellers;make "
    "tea for strangers;carry messages;repair broken toys;paint clouds;teach birds to sing;measure "
    "the silence;feed the ducks;ring the bell at noon;look for my lost hat;dance when nobody "
    "looks;polish the stars;catch dreams in a net"
).split(";")
THOUGHTS = (
    "the sea;an old friend;the colour of the evening;tomorrow;what is behind the wall;the sound "
    "of trains;my childhood;the next summer;all the names I forgot;how to fly;the end of the "
    "story;music;the first snow;distant lands;nothing at all"
).split(";")
LOVES = (
    "rain;soup;old songs;the smell of books;sunny mornings;thunder;cinnamon;the colour green;long "
    "walks;ripe plums;soft blankets;jokes;silence;the sound of bells;lemon cake;candle light;"
    "children;postcards;stars;warm bread;autumn leaves;visitors;puzzles"
).split(";")
CALLS = (
    "Hello!", "Welcome!", "Good day!", "Ah!", "Oh, a visitor!", "Greetings!", "Well, well!", "Hm.",
)
WISDOM = (
    "Take your time.", "Be kind to small things.", "Listen before you speak.",
    "Look up now and then.", "Every day is new.", "Drink some water and start again.",
    "What you give comes back.", "Ask for help when it is heavy.",
)
NAMES = (
    "Ember Juno Pip Moss Luna Orla Finn Sable Bramble Willow Hazel Rusty Ash Nova Comet Echo "
    "Pebble Clover Saffron Otto Wanda Basil Fern Marlow Iris Jasper Opal River Sage Tilly Vesper "
    "Zephyr Atlas Birdie Cosmo Dusty Elio Figaro Ginger Hugo Indigo Jade Kiko Lumen Mabel Nimbus "
    "Olive Poppy Quill Rolo Sunny Tansy Ursa Velvet Wren Yara Ziggy Amber Bolt Cinder Dot Ezra "
    "Flint Gale Harbor Inky Juniper Koda Lark Maple Nettle Onyx Pepper Rook Sorrel Thistle Umbra "
    "Vera Winnie Alba Boris Cleo Dora Edgar"
).split()
SYLLABLES = (
    "ka lo mi ra ten vo sel nu bri da fen gor ha il jo ky lu mar ne ol pa qui ro sa to ur vin wa "
    "xi yo zen"
).split()
# fmt: on


class Character(NamedTuple):
    """Who speaks: `told` holds the facts that the system prompt must state."""

    kind: str
    name: str | None
    home: str
    task: str
    thought: str
    love: str
    call: str
    wisdom: str
    told: tuple[str, ...]

    @property
    def a_kind(self) -> str:
        """The kind with its article."""
        return with_article(self.kind)


def with_article(noun: str) -> str:
    """The noun after `a` or `an`."""
    return ("an " if noun[0] in "aeio" or noun.startswith("umb") else "a ") + noun


def character_name(rng: random.Random) -> str:
    """A name for a character, often one that was never heard."""
    if rng.random() < 0.55:
        return rng.choice(NAMES)
    return "".join(rng.sample(SYLLABLES, rng.randint(2, 3))).capitalize()


def character(rng: random.Random) -> Character:
    """A known character, sometimes with some facts changed, or one made of told facts alone."""
    name = character_name(rng) if rng.random() < 0.45 else None
    facts = {
        "home": rng.choice(HOMES),
        "task": rng.choice(TASKS),
        "thought": rng.choice(THOUGHTS),
        "love": rng.choice(LOVES),
        "call": rng.choice(CALLS),
        "wisdom": rng.choice(WISDOM),
    }
    if rng.random() < 0.40:
        return Character(
            rng.choice(MORE_KINDS), name, **facts, told=("home", "task", "thought", "love")
        )
    kind, home, task, thought, love, call, wisdom = rng.choice(KNOWN)
    known = {
        "home": home,
        "task": task,
        "thought": thought,
        "love": love,
        "call": call,
        "wisdom": wisdom,
    }
    changed = tuple(key for key in ("home", "task", "thought", "love") if rng.random() < 0.15)
    known.update({key: facts[key] for key in changed})
    shown = tuple(
        key
        for key in ("home", "task", "thought", "love")
        if key not in changed and rng.random() < 0.2
    )
    return Character(kind, name, **known, told=changed + shown)
