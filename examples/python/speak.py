"""Have an answer spoken while it is generated, over HTTP with OpenAI's client.

What it shows: the stream is cut into sentences, and each is spoken as soon as it is there, while
the next ones are generated. The first sound comes after one sentence, not after the whole answer.

What to change: SPEAK, the command that speaks what it reads, as "espeak-ng --stdin" does; as it
stands, `cat` writes it. EDGE_LLM_URL and EDGE_LLM_KEY say where the node is, and with which key.

How to run: pip install openai, then
    EDGE_LLM_URL=http://oracle.local:8000 SPEAK="espeak-ng --stdin" python speak.py "Who are you?"
"""

import os
import queue
import re
import shlex
import subprocess
import sys
import threading

import openai

SPEAK = os.environ.get("SPEAK", "cat")
URL = os.environ.get("EDGE_LLM_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("EDGE_LLM_KEY", "none")
# A full stop and a space, perhaps with a quotation mark between them: "3.5" is no end.
END = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][\"'»”)])\s+")


def speak(sentences):
    """Speak what is put into the queue, one after the other, until there is None."""
    while (sentence := sentences.get()) is not None:
        subprocess.run(shlex.split(SPEAK), input=f"{sentence}\n", text=True, check=False)


def main(question: str) -> int:
    """Ask, and have the answer spoken; return the exit code."""
    sentences: queue.Queue[str | None] = queue.Queue()
    speaker = threading.Thread(target=speak, args=(sentences,))  # speech must not hold up reading
    speaker.start()
    pending = ""
    try:
        client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY)
        model = client.models.list().data[0].id
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=100,
            stream=True,
        )
        for chunk in stream:
            pending += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            *whole, pending = END.split(pending)
            for sentence in whole:
                sentences.put(sentence)
    except openai.OpenAIError as exc:
        print(f"no answer: {exc}", file=sys.stderr)
        return 1
    else:
        if pending.strip():
            sentences.put(pending.strip())
        return 0
    finally:
        sentences.put(None)
        speaker.join()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "Who are you?"))
