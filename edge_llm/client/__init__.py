"""A node behind a broker, for Python programs: the answer as it grows, or as one string.

Each of these two works as it stands, with the broker's address in it::

    import asyncio

    from edge_llm import MqttSettings, RemoteEngine


    async def main() -> None:
        async with RemoteEngine(MqttSettings(host="broker.local")) as llm:
            print(await llm.ask("Who are you?", max_tokens=60))


    asyncio.run(main())

With ``generate`` the words come one by one, and leaving the loop early cancels the request, also at
the node; errors have a ``code``, and those that are ``retryable`` may succeed later::

    import asyncio
    from contextlib import aclosing

    from edge_llm import Delta, Done, EdgeLLMError, MqttRequest, MqttSettings, RemoteEngine


    async def main() -> None:
        request = MqttRequest(prompt="Tell me a poem.", stream="sentence", time_budget_s=20)
        async with RemoteEngine(MqttSettings(host="broker.local"), offline_grace_s=30) as llm:
            try:
                async with aclosing(llm.generate(request)) as events:
                    async for event in events:
                        if isinstance(event, Delta):
                            print(event.text, end="", flush=True)
                        elif isinstance(event, Done):
                            print(f" ({event.finish_reason}, {event.timing.total_s:.1f} s)")
            except EdgeLLMError as exc:
                print(f"no answer: {exc.code}: {exc.message}")


    asyncio.run(main())
"""

from edge_llm.client.depth import FleetDepth, find_depth
from edge_llm.client.nodes import RemoteNode
from edge_llm.client.remote import RemoteEngine
from edge_llm.client.roster import Roster

__all__ = ["FleetDepth", "RemoteEngine", "RemoteNode", "Roster", "find_depth"]
