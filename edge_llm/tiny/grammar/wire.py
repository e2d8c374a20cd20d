"""edge-llm's doors explained: the MQTT topics, the payloads, the HTTP address."""

# Ways to name the service in a question.
E = "[edge-llm|edge-llm|edge llm|this service|the edge-llm service]"

# fmt: off
WIRE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "request": (
        (
            (
                "how do I send a [request|prompt|question|message][| over MQTT| by MQTT| with "
                f"MQTT| to {E}]?"
            ),
            (
                "[which|what] topic [is for|do I use for|takes|gets] [requests|a request|prompts|"
                "questions]?"
            ),
            "where do [requests|prompts|questions] go?", "what is the request topic?",
            "[to|on] [which|what] topic [do|should|must] I [publish|send|write]?",
            f"how [can|do] I [ask|prompt|talk to] {E} [over|by|via|with|through] MQTT?",
            (
                "how [can|does] my [button|ESP32|board|microcontroller|sensor|device] [ask a "
                "question|make you talk|send a prompt|talk to you|start a reply]?"
            ),
            "what topic should a button publish to?",
            "where should I publish my [prompt|question]?",
            "tell me the [request topic|topic for requests|topic for prompts]",
            "how does a request get [in|to you|into the service]?",
            "which MQTT topic do I send [to|text to]?",
            (
                "how do I [submit|transmit|pass|feed|post] a [prompt|request|text|question][| "
                "over MQTT]?"
            ),
            (
                "my [sensor|Arduino|microcontroller|script|Node-RED flow] should [ask|send] "
                "something. which topic?"
            ),
            "[which|what] topic [starts|triggers] a reply?",
            "what is the address for [prompts|requests] in MQTT?",
            "I want to publish a [prompt|question]. [where|what topic]?", "publish where?",
            "I want to send you a prompt by MQTT", "how do I make the installation speak?",
            "where does the prompt have to be sent?",
        ),
        (
            "Publish the prompt to llm/request/<id>, and choose the id yourself.",
            "Send your text to the topic llm/request/<id>, for example llm/request/button7.",
            "Publish to llm/request/<id>. The reply comes on llm/response/<id>.",
        ),
    ),
    "response": (
        (
            "where [does|will] the [reply|answer|response] [come|go|arrive|appear][| out]?",
            (
                "[which|what] topic [has|carries|is for|gives] the [reply|answer|response|replies|"
                "answers|responses]?"
            ),
            "where do [replies|answers|responses] [go|come|arrive|appear]?",
            "what is the response topic?",
            (
                "[to|on] [which|what] topic do I [subscribe|listen][| for the reply| to get the "
                "answer]?"
            ),
            (
                "how do I [get|read|receive|hear|see|catch] [the|your|a] [reply|answer|response][|"
                " over MQTT| by MQTT]?"
            ),
            "where should I listen[| for answers| for the reply]?", "what do I subscribe to?",
            "tell me the [response topic|topic of the reply|topic for answers]",
            "I sent a request. where is the answer?", "on which channel do you answer?",
            "which MQTT topic do you [answer|reply] on?", "where can my program read the answer?",
            "where do I find the [result|output|text][| of my request]?",
            "which topic [brings|returns|delivers|holds] the [answer|reply|result|output]?",
            "what topic do you [use|take] for [your reply|replies|answers]?",
            "how does the [answer|reply] [get back|come back|reach me]?",
            "I published a prompt. [what now|and then|where is the reply]?", "subscribe where?",
        ),
        (
            "The reply comes on llm/response/<id>, with the id of your request.",
            "Subscribe to llm/response/<id>: there comes exactly one final message.",
            "Listen on llm/response/<id>. It has the same id as the request.",
        ),
    ),
    "stream": (
        (
            (
                "how do I [get|receive|read] [a stream|the stream|words one by one|the text word "
                "by word|tokens as they come|partial replies|deltas]?"
            ),
            "can [you|edge-llm|it] stream[| the answer| the reply| words| tokens| text]?",
            "[which|what] topic [has|is for|carries] the [stream|deltas|tokens|partial text]?",
            "where [do|does] the [stream|deltas|pieces|partial text] [go|come|appear]?",
            "how does streaming work?",
            "I want to see the [words|text|reply] while [it is|they are] written",
            "[is there|do you have|do you support] [streaming|a stream]?", "what is a delta?",
            "how can I show the text while it is being written?", "what is the delta topic?",
            "tell me about streaming", "can I read the answer before it is finished?",
            "I do not want to wait for the whole reply",
            "which topic shows the [text|words|reply] [live|as it grows]?",
            "I want [live|partial|incremental] [text|output|words]",
            "where are the [tokens|pieces|chunks] [published|sent]?",
            "how can I follow the reply [live|word by word|token by token]?",
            "how do I see the tokens live?",
        ),
        (
            "The stream comes on llm/response/<id>/delta, piece by piece.",
            "Ask for a stream, and the pieces come on llm/response/<id>/delta.",
            "While I write, deltas are sent to llm/response/<id>/delta.",
        ),
    ),
    "cancel": (
        (
            (
                "how do I [stop|cancel|abort|interrupt|end|break off] [an answer|a reply|a "
                "request|you|the answer|it|a generation|the reply]?"
            ),
            "[can|could] I [cancel|stop|interrupt|abort] [you|a request|an answer|a reply]?",
            "[which|what] topic [cancels|stops|is for cancelling|ends a reply|is for stopping]?",
            "what is the cancel topic?", "how does cancelling work?",
            "how do I make you [stop|be quiet|stop talking|shut up]?",
            "the answer is too long, how do I stop it?",
            "[stop|cancel] a [request|running request|reply|running answer], how?",
            "how can I take back a request?",
            "what if I want to [stop|cancel] [you|the reply|halfway]?",
            "is there a way to [cancel|stop|interrupt] [a reply|you|an answer]?",
            "tell me how to cancel", "I changed my mind about my request. how do I stop it?",
            "where do I send a cancel?",
            "how do I [halt|kill|quit|silence|withdraw] a [reply|request|generation]?",
            "you talk too [much|long]. how do I stop that?",
            "please tell me how [a reply|an answer|a request] is [stopped|cancelled|aborted]",
            "what do I publish to [stop|cancel|interrupt] you?",
            "the visitor left, how do I stop the reply?", "how can a button stop the talking?",
        ),
        (
            "Publish anything to llm/cancel/<id>, and the reply stops.",
            "Send a message to llm/cancel/<id> with the id of the request.",
            "To stop an answer, publish to llm/cancel/<id>.",
        ),
    ),
    "status": (
        (
            (
                f"how do I [know|see|check] [if|whether] [the node|{E}|it|the service|a node] is "
                "[online|alive|running|up|there]?"
            ),
            "[which|what] topic [has|is for|shows|tells] the status?", "where is the status?",
            "what is the status topic?",
            (
                "how can I [see|read|monitor|watch] the [status|state|health][| of a node| of the "
                "device]?"
            ),
            "is [the node|the service] online?", "where do I read [online|offline|the status]?",
            "how do I notice that the [device|node|Pi] is [offline|dead|down|broken]?",
            "tell me the status topic", "how do I monitor a node?",
            "does edge-llm report its [status|state|health]?", "what shows that it is offline?",
            "where can I look up if the machine works?",
            (
                "which topic tells me [that|if|whether] the [Pi|node|device|machine] is [up|alive|"
                "reachable|connected|working]?"
            ),
            "is there a [heartbeat|health|status] topic?",
            "how can I tell [that|if] a node is [offline|online|down]?",
            "where does the node say that it is [online|alive]?",
            "can I see if the machine is still running?",
            "how would I find out that a node has died?",
        ),
        (
            "Read llm/node/<node>/status: it says online or offline, and it is retained.",
            "The topic llm/node/<node>/status says online or offline.",
            (
                "Subscribe to llm/node/<node>/status. The broker keeps the last word: online or "
                "offline."
            ),
        ),
    ),
    "formats": (
        (
            (
                "[what|which] format [do|should|must] [requests|a request|the payload|prompts|"
                "messages] [have|be|be in]?"
            ),
            "[can|do|should|must] I send [JSON|plain text|text]?",
            "what if I send [JSON|plain text|text]?", "do I [need|have] to [use|send|write] JSON?",
            "is the reply [JSON|text|plain text]?",
            "what [comes|do I get] back[| if I send text| if I send JSON]?",
            "does edge-llm [understand|accept|speak] [JSON|plain text]?",
            "what should the payload look like?", "how is the reply formatted?", "text or JSON?",
            "what does the message look like?", "which formats are [accepted|supported|possible]?",
            "explain the payload format", "must my message be JSON?",
            "if I send [JSON|text], what [comes|do I get] back?",
            "will the [reply|answer] be [JSON|text|plain text]?",
            "I [sent|wrote|use] [JSON|plain text]. what is the reply?",
            "does [JSON|text] in mean [JSON|text] out?", "in which format do you [answer|reply]?",
            "how do I choose between text and JSON?",
        ),
        (
            "Text in, text out. JSON in, JSON out.",
            "Send plain text and you get plain text; send JSON and you get JSON.",
            "Both work: text in gives text out, and JSON in gives JSON out.",
        ),
    ),
    "http": (
        (
            f"[does|has|can] {E} [have|speak|do|offer] [HTTP|an HTTP API|a web API|an API|REST]?",
            "how do I use HTTP?", "[what|which] is the HTTP [endpoint|address|path|URL|route]?",
            (
                "[can|how can|how do] I use [the OpenAI client|the openai library|curl|a web "
                f"client|Ollama clients][| with {E}]?"
            ),
            f"is {E} [OpenAI compatible|compatible with OpenAI]?",
            (
                "[which|what] [URL|endpoint|path] [for|takes|is for] [chat|chat completions|"
                "completions|HTTP requests]?"
            ),
            "where is the [API|endpoint|HTTP interface]?", "can I [ask|talk to] you over HTTP?",
            "I do not have MQTT. can I use the web?", "tell me the endpoint",
            "how does a website talk to edge-llm?", "which path do I post to?",
            "is there a REST interface?", "how can my web page ask you something?",
            "what is the [URL|path|address] for my [app|program|website|script]?",
            "can a [browser|phone|program|script|web app] [talk to|ask|call] you?",
            "which [route|path|endpoint] [answers|serves] chat requests?",
            "is there something for web developers?",
            "I want to [call|use] it from [Python|JavaScript|my app|a website]",
            "what about HTTP?",
        ),
        (
            "Yes, over HTTP at /v1/chat/completions, as OpenAI's clients expect.",
            "The HTTP endpoint is /v1/chat/completions. It speaks OpenAI's dialect.",
            "Post to /v1/chat/completions, as with OpenAI's API.",
        ),
    ),
}
# fmt: on
