"""What ``edge-llm doctor`` finds out about the broker: can it keep what the queue can't hold?

MQTT 5 clients tell the broker how many messages they take unacknowledged. With MQTT 3.1.1 the
broker alone decides, and says so to nobody, so it is measured: messages to a topic of our own that
we don't acknowledge, until no more come.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress

from edge_llm.errors import EdgeLLMError
from edge_llm.mqtt import MqttConnection, Subscription
from edge_llm.settings import Settings, find_exposures
from edge_llm.topics import Topics

__all__ = ["examine_broker"]

CONNECT_TIMEOUT_S = 4.0
SILENCE_S = 0.3  # after which no more comes
NUM_PROBES = 128
"""More than any queue that makes sense; mosquitto's own window is 20."""


async def examine_broker(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """Yield findings, each with its heading; none of them changes anything at the broker."""
    for exposure in find_exposures(settings):
        yield "exposed", f"{exposure.reason}: {exposure.do}"
    mqtt = settings.mqtt
    where = f"{mqtt.host}:{mqtt.port}"
    name = f"edge-llm-doctor-{secrets.token_hex(4)}"
    try:
        async with MqttConnection(mqtt, name, [], clean=True) as connection:
            await asyncio.wait_for(connection.wait_until_connected(), CONNECT_TIMEOUT_S)
            protocol = connection.protocol
    except TimeoutError:
        yield (
            "broker",
            f"{where} does not let us in; see above, or start one: apt install mosquitto",
        )
        return
    except EdgeLLMError as exc:
        yield "broker", str(exc)
        return
    yield "broker", f"{where} speaks MQTT {protocol}"
    held = settings.engine.queue.limit + 1
    if protocol == "5":
        yield "MQTT 5", f"we ask for at most {held} unacknowledged requests; it keeps the others"
    window = await _measure_window(settings, name)
    yield "MQTT 3.1.1", _judge(window, held, used=protocol == "3.1.1")


async def _measure_window(settings: Settings, name: str) -> int:
    """Return how many messages a client of MQTT 3.1.1 is sent that does not acknowledge any."""
    topics = Topics(settings.mqtt.prefix, settings.node)
    topic = f"{topics.prefix}/node/{topics.node}/doctor/{name}"
    old = settings.mqtt.model_copy(update={"protocol": "3.1.1"})
    count = 0
    with suppress(TimeoutError):
        async with (
            MqttConnection(old, f"{name}-in", [Subscription(topic, 1)], clean=True) as ours,
            MqttConnection(old, f"{name}-out", [], clean=True) as sender,
        ):
            for connection in (ours, sender):
                await asyncio.wait_for(connection.wait_until_connected(), CONNECT_TIMEOUT_S)
            await asyncio.wait_for(ours.publish(topic, b"ready", 1), CONNECT_TIMEOUT_S)
            for number in range(NUM_PROBES):
                sender.publish(topic, b"%d" % number, 1)
            messages = ours.messages()
            while count < NUM_PROBES + 1:
                await asyncio.wait_for(anext(messages), SILENCE_S if count else CONNECT_TIMEOUT_S)
                count += 1
    return count


def _judge(window: int, held: int, *, used: bool) -> str:
    whose = "requests to this node" if used else "requests to a node that speaks it"
    if window == 0:
        return f"its window for {whose} could not be measured: it delivers nothing to us"
    if window > NUM_PROBES:
        return f"it hands out {NUM_PROBES} {whose} at once or more; the node holds them itself"
    text = f"it hands out {window} {whose} at once, and keeps the others (max_inflight_messages)"
    if window < held:
        text += f"; the queue would hold {held}: set max_inflight_messages {held} in its settings"
    return text
