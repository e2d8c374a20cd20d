"""Ask edge-llm over MQTT with its own client: one answer as a string, one as it grows.

What it shows: RemoteEngine finds the node, waits for one that is just being restarted, asks again
what got lost with a connection, and cancels at the node what is no longer wanted here.

What to change: nothing; MQTT_HOST and MQTT_PORT say where the broker is (localhost, 1883).

How to run: pip install edge-llm (or in a clone: pip install .), then
    MQTT_HOST=broker.local python ask.py "Tell me a story."
"""

import asyncio
import os
import sys
from contextlib import aclosing

from edge_llm import Delta, Done, EdgeLLMError, MqttRequest, MqttSettings, RemoteEngine

BROKER = MqttSettings(
    host=os.environ.get("MQTT_HOST", "localhost"),
    port=int(os.environ.get("MQTT_PORT", "1883")),
)


async def main(question: str) -> int:
    """Ask twice; return the exit code."""
    try:
        async with RemoteEngine(BROKER) as llm:
            print(await llm.ask(question, max_tokens=100))

            # stream: "sentence" for a voice, "word" for a sign; time_budget_s: said in that time.
            request = MqttRequest(prompt=question, stream="sentence", time_budget_s=20)
            async with aclosing(llm.generate(request)) as events:  # leaving it early cancels
                async for event in events:
                    if isinstance(event, Delta):
                        print(f"> {event.text.strip()}", flush=True)
                    elif isinstance(event, Done):
                        print(f"({event.finish_reason})")
    except EdgeLLMError as exc:  # exc.retryable says whether it may succeed later
        print(f"no answer: {exc.code}: {exc.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "Who are you?")))
