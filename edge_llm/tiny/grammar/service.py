"""edge-llm explained by itself: what it is, what it runs on, its commands and its words."""

import random

from edge_llm.tiny.grammar.phrase import Exchange, ask, pick
from edge_llm.tiny.grammar.wire import WIRE, E

# fmt: off
FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "what it is": (
        (
            f"what is {E}?", f"[explain|describe] {E}[| to me| briefly| in one sentence]",
            f"what [does|can] {E} do?",
            f"[tell me|say something|I want to know] [more |]about {E}",
            f"what is {E} [for|good for|about]?", "edge-llm?", f"why does {E} exist?",
            f"what is the [purpose|point|idea] of {E}?",
            f"[I have never heard of|I do not know] {E}",
            f"give me a [summary|description|definition] of {E}",
            f"what [exactly |really |]is {E} made for?", f"what happens [in|inside] {E}?",
            f"what would I use {E} for?", f"what is the story of {E}?", f"teach me about {E}",
            f"how does {E} work?", "what software [is this|runs here|is behind this|am I using]?",
            "what [service|program|system] is this?", f"how would you describe {E}?",
            f"what kind of [software|thing|program] is {E}?", f"introduce {E}",
            f"who [needs|uses|would use] {E}?", f"what can I [build|make] with {E}?",
        ),
        (
            "edge-llm is a service that lets an art installation talk, over MQTT and HTTP.",
            (
                "edge-llm is a small service: it lets an art installation talk. Requests come "
                "over MQTT or HTTP, and replies go back the same way."
            ),
            (
                "It is a service for art installations: a language model on a Raspberry Pi that "
                "answers over MQTT and HTTP."
            ),
        ),
    ),
    "hardware": (
        (
            (
                f"[which|what] [hardware|card|device|accelerator|chip|computer|board|NPU] does {E} "
                "[use|need|run on|want]?"
            ),
            f"what does {E} run on?",
            "[which|what] [accelerator|card|NPU|chip] is [it|used|in there|inside|needed]?",
            (
                f"does {E} [need|use|have] a [GPU|graphics card|card|special card|big computer|"
                "server]?"
            ),
            "what is the AX650?", "what is the LLM-8850?", "what is an AX650 card?",
            f"on [which|what] [machine|computer|hardware] does {E} [run|work|live]?",
            "which Raspberry Pi do I need?", f"can {E} run on a Raspberry Pi?",
            "what computer are you running on?",
            "what [hardware|electronics] is in this [box|installation]?", "where do you run?",
            f"do I need the cloud for {E}?",
            "[what|which] [part|component|module] makes you fast?",
            "what is plugged into the [Pi|computer]?",
            f"which [equipment|parts] do I [buy|need] for {E}?",
            "name the [card|accelerator|board]", "is there an accelerator [inside|in it]?",
            "what is your [processor|card|hardware]?", "does it need a fast computer?",
            "which board is inside?",
        ),
        (
            "edge-llm runs on a Raspberry Pi 5 with an AX650 card, the M5Stack LLM-8850.",
            "A Raspberry Pi 5 with an AXERA AX650 accelerator card.",
            "The card is an AX650, on a Raspberry Pi 5. Without the card, I run on the CPU.",
        ),
    ),
    **WIRE,
    "serve": (
        (
            f"how do I [start|run|launch|boot|bring up|get going with] {E}?",
            "[which|what] command [starts|runs|launches] [the service|edge-llm|it|the server]?",
            f"how [is|does] {E} [started|start]?", "how do I run the [service|server]?",
            "what do I type to start [the service|it|edge-llm|the server]?",
            "start the server, how?", "tell me the command to start",
            "how do I turn the service on?", "what is edge-llm serve?",
            "what does edge-llm serve do?", "the service is not running. how do I start it?",
            "how can I launch the server?",
            "what do I [enter|run|call|execute] to [start|launch|run] [the server|the service|it]?",
            "how do I get the [service|server] [up|running|going]?",
            "which line starts the [server|service] [in the terminal|]?",
            "I installed it. how do I start it?", "command for serving?",
        ),
        (
            "Type edge-llm serve, and the service starts.",
            "Start it with the command edge-llm serve.",
            "The command is edge-llm serve. It answers requests until you stop it.",
        ),
    ),
    "demo": (
        (
            f"how [do|can] I try {E}[| out]?", f"is there a demo[| of {E}]?",
            "how do I [see|run|start|get] [a|the] demo?",
            "[which|what] command [shows|starts|runs] [a|the] demo?", "what is edge-llm demo?",
            "what does edge-llm demo do?",
            "can I try it [without a card|without hardware|on my laptop|at home]?",
            "show me a demo", "I [just|only] want to [try|test] it",
            "how do I [test|play with] edge-llm [quickly|on my own computer]?",
            "is there something to try first?", "I want to see it in action",
            "what is the quickest way to try this?",
            "I have no [card|Raspberry Pi|broker|hardware]. can I [still |]try it?",
            "[what|which] command is for [trying|testing|playing|a first look]?",
            "can you show [what it does|how it looks|it to me]?",
            "is there a way to try it without [the card|buying anything]?",
            "can I have a demonstration?",
        ),
        (
            "Type edge-llm demo. It needs no card.",
            "Run edge-llm demo: it works on any computer, without a card.",
            "The command edge-llm demo shows everything with the built-in model.",
        ),
    ),
    "ask": (
        (
            (
                "how do I ask [a question|something|you] [from|in|on|with] the [terminal|command "
                "line|shell|console]?"
            ),
            "[which|what] command asks [a|one] question?", "what is edge-llm ask?",
            "what does edge-llm ask do?",
            "can I [ask|use you|chat] [from|on|in] the [terminal|command line|shell]?",
            "how do I get one answer in the [terminal|shell|console]?",
            "is there a command [to ask|for asking|for a single question]?",
            "how do I use it on the command line?", "one question in the shell, how?",
            "what do I type to ask something?", "can I put a question to you from a shell script?",
            "[what|which] command [gives|prints|gets] [one|a single|an] answer?",
            "how do I [pose|put|ask] one question [from|in|on] the [shell|terminal|command line]?",
            "I [just |]want to ask [something|one thing] in the terminal",
            "how do I ask without MQTT, in the terminal?",
        ),
        (
            'Type edge-llm ask "..." with your question in the quotes.',
            'Use edge-llm ask "your question" in the terminal.',
            'The command is edge-llm ask "...". It prints the answer.',
        ),
    ),
    "commands": (
        (
            (
                f"[which|what] commands [are there|does {E} have|exist|do you have|can I use|do "
                "you know]?"
            ),
            f"list the commands[| of {E}]", "what are the commands?",
            "[show|tell] me [all |]the commands",
            "what can I type [in the terminal|after edge-llm]?", "which subcommands exist?",
            "how do I use the command line tool?", "what does the command line offer?",
        ),
        (
            "The main commands are edge-llm serve, edge-llm demo and edge-llm ask.",
            (
                "edge-llm serve starts the service, edge-llm demo shows it, edge-llm ask asks one "
                "question."
            ),
            "Three to begin with: edge-llm serve, edge-llm demo and edge-llm ask.",
        ),
    ),
    "mosquitto": (
        (
            (
                "how do I [use|send a request with|ask with|send a prompt with|publish with|test "
                "with] [mosquitto_pub|mosquitto]?"
            ),
            "[give|show] me [a|the|an example of a] mosquitto_pub [command|line|example|call]",
            "what is the mosquitto_pub [command|line]?", "example for mosquitto_pub",
            "mosquitto_pub how?",
            "which mosquitto command [sends|publishes] a [request|prompt|question]?",
            "how can I send a request from the [shell|terminal] with mosquitto?",
            "how do I [send|publish] a request with a [command line|shell] MQTT [client|tool]?",
            "I have mosquitto installed, what do I type?", "what do I pass to mosquitto_pub?",
            "what would the mosquitto_pub [call|command|line] look like?",
            "[write|type|print] a mosquitto_pub [command|example] for me",
            "a [command line|shell] example for publishing a prompt",
            "how do I publish with mosquitto?", "can I use mosquitto_pub?",
        ),
        (
            "mosquitto_pub -t llm/request/test -m 'Tell me a poem about rain'",
            (
                "Type mosquitto_pub -t llm/request/test -m 'Hello'. The answer comes on "
                "llm/response/test."
            ),
            "For example: mosquitto_pub -t llm/request/button7 -m 'Tell me my fortune'",
        ),
    ),
    "mqtt": (
        (
            "what is MQTT?", "[explain|describe] MQTT[| to me| briefly]",
            "what does MQTT [do|mean]?", "why MQTT?", "why [do you|does edge-llm] use MQTT?",
            "tell me about MQTT",
            (
                "what is [a broker|the broker|mosquitto|a topic|publish and subscribe|an MQTT "
                "topic|an MQTT broker]?"
            ),
            "how does MQTT work?", "I do not know MQTT", "what is this MQTT thing?",
            "is MQTT a protocol?", "MQTT?", "what is the meaning of MQTT?",
            "what does a broker do?",
            "[everyone talks about|I keep reading about|they use|you said] MQTT. what is it?",
            "what [kind of|sort of] thing is MQTT?", "what is MQTT good for?",
            "can you explain what MQTT is?", "who uses MQTT?", "what are topics?",
        ),
        (
            (
                "MQTT is a light protocol for small devices: they publish messages to topics at a "
                "broker, and others subscribe."
            ),
            (
                "MQTT is how small devices talk: one publishes a message to a topic, the broker "
                "passes it to all who subscribe."
            ),
            (
                "In MQTT, devices publish messages to topics. A broker like mosquitto hands them "
                "to the subscribers."
            ),
        ),
    ),
    "node": (
        (
            "what is a node?", "what [does|is meant by] [node|a node][| mean]?",
            "[explain|describe] [a node|nodes|the word node]", "what is <node>?",
            "how many nodes can there be?",
            "can I have [more than one|several|two|many] [nodes|devices|Pis]?",
            "what do you call a node?", "what are nodes?", "what is the node in the topic?",
            "node?", "tell me about nodes", "which machine is the node?", "is a node a computer?",
        ),
        (
            "A node is one machine that runs edge-llm. Each node has its own name.",
            "A node is one device with edge-llm on it, for example one Raspberry Pi.",
            "Each machine that runs edge-llm is a node, and there may be several.",
        ),
    ),
    "id": (
        (
            "what is the id?", "what [is|does|means] <id>[| mean]?",
            "[which|what] id [should|do|must] I [use|take|choose]?",
            "where [do|does] [I get|the id come from|the id come]?", "who chooses the id?",
            "can I choose the id?", "what is a request id?", "explain the id",
            "is the id given to me?", "what do I put in place of the id?",
            "can two buttons use the same id?", "how long may an id be?",
            "what should the id look like?",
        ),
        (
            "You choose the id yourself, for example button7. The reply carries the same id.",
            "The id is yours to choose. It links the request to its reply.",
            "The id names your request. Choose it yourself, such as button7.",
        ),
    ),
    "model": (
        (
            (
                "how do I [load|use|get|install|run] [a bigger model|another model|a better model|"
                "a larger model|a real model|Qwen|Qwen3|my own model]?"
            ),
            (
                "can [you|edge-llm|it] [run|load|use] [a bigger model|another model|larger models|"
                "other models|Qwen3]?"
            ),
            "[which|what] models [can|does] [edge-llm|it|the service] [run|use|load|support]?",
            "how do I change the model?", "how do I make you smarter?",
            "which models are supported?", "can I replace [you|the model|this model]?",
            "I [want|need] a [bigger|better|smarter] model", "is there a better model?",
            "how can I get better answers?", "where do I get a bigger model?",
        ),
        (
            "Download a bigger model such as Qwen3 and set its directory in the settings.",
            (
                "Put the directory of a bigger model, for example Qwen3, into the settings and "
                "restart."
            ),
            (
                "edge-llm runs Qwen3 models on the card. Download one and name its directory in "
                "the settings."
            ),
        ),
    ),
    "settings": (
        (
            (
                "how do I [configure|set up|change the settings of|set] [edge-llm|it|the service|"
                "the broker|the broker address]?"
            ),
            "where [are|is] the [settings|configuration|config]?",
            "is there a [config file|configuration file|settings file]?",
            "how do I change [the settings|a setting|the broker]?", "how do I set the MQTT host?",
            "what can I configure?", "which file has the settings?",
            "can I use environment variables?", "how do I tell it where the broker is?",
            "configuration?",
        ),
        (
            "Settings come from a TOML file or from the environment, such as EDGE_LLM_MQTT__HOST.",
            "Write a TOML file, or set variables like EDGE_LLM_MQTT__HOST.",
            "Use a TOML file. The environment wins over it, for example EDGE_LLM_MQTT__HOST.",
        ),
    ),
    "offline": (
        (
            "do you [need|use] the [internet|cloud][| to work]?",
            "does edge-llm [need|use|work without] [the internet|the cloud|a connection]?",
            "[can|do] you work offline?",
            "does my data [leave|go to the cloud|get sent anywhere|stay here]?", "is it private?",
            "do you send my words [somewhere|to a company|to the internet]?",
            "where does my data go?", "are you connected to the [internet|web]?",
            "is anything I say [stored|sent away|uploaded]?",
            "who can read what I [say|type|write]?", "can the service run without internet?",
        ),
        (
            "I need no internet: edge-llm runs on this machine, and your words stay here.",
            "No cloud and no internet. Everything runs here, on this device.",
            "Your words stay on this machine. edge-llm works without the internet.",
        ),
    ),
}
# fmt: on


def service(rng: random.Random) -> Exchange:
    """One question about edge-llm and its answer."""
    name = rng.choice(list(FACTS))
    questions, answers = FACTS[name]
    return Exchange(ask(rng, questions), pick(rng, answers), f"About edge-llm: {name}.")
