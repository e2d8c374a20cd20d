"""What the node's account may do at the broker.

A broker may grant a subscription and deliver nothing, as mosquitto does, and with MQTT 3.1.1 it
takes a forbidden message in silence. So what can be is measured by an echo: a request on a topic of
three levels, which no node listens to, and an answer that nobody waits for. Only where that is not
delivered is a request of the usual form tried, with a field that every node refuses.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from edge_llm.doctor.broker import Meeting, connect, is_met, new_client_id
from edge_llm.doctor.case import Case
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn
from edge_llm.doctor.probe import Probe
from edge_llm.topics import Topics

__all__ = ["examine_rights"]

NAME = "broker.acl"
REFUSED_BY_NODES = b'{"edge_llm_doctor": true}'
NOTHING_S = 1.0  # after which an echo is taken for lost
CURE = (
    "give the node's account the lines under 'user edge-llm' of mosquitto/edge-llm.acl, and "
    "sudo systemctl reload mosquitto"
)


@dataclass(frozen=True, slots=True)
class _Tried:
    """What came of it.

    Attributes:
        is_said: the broker says which messages it refuses (MQTT 5).
        refused: subscriptions that were, with the reason.
        may_request, may_answer: whether a message was taken.
        hears: whether a request came back; None if it could not be sent.
        is_answer_heard: the answer came back, so it was taken for sure.
    """

    is_said: bool
    refused: tuple[str, ...]
    may_request: bool
    may_answer: bool
    hears: bool | None
    is_answer_heard: bool


async def examine_rights(case: Case) -> AsyncGenerator[Finding]:
    """Whether the account may hear requests, and may answer them."""
    meeting = await is_met(case)
    if meeting is None:
        yield skip(NAME, "no connection to the broker")
        return
    topics = Topics(case.settings.mqtt.prefix, case.settings.node)
    tried = await _try(meeting, topics)
    for topic in tried.refused:
        yield fail(NAME, f"may not subscribe to {topic}", CURE)
    if not tried.may_answer:
        yield fail(NAME, f"may not publish answers ({topics.response('#')})", CURE)
    if tried.hears is False:
        what = f"hears no requests ({topics.request('+')}): subscribed, and nothing is delivered"
        yield fail(NAME, what, CURE)
    if tried.refused or not tried.may_answer or tried.hears is False:
        return
    if not tried.may_request:
        what = f"may not publish on {topics.request('#')}, so it can't clear retained requests"
        yield warn(NAME, what, CURE)
        return
    answers = "may publish answers"
    if not (tried.is_said or tried.is_answer_heard):
        answers = "whether it may publish answers, MQTT 3.1.1 does not tell"
    yield ok(NAME, f"hears requests; {answers}")


async def _try(meeting: Meeting, topics: Topics) -> _Tried:
    client_id = new_client_id()
    deep, usual = topics.request(f"{client_id}/doctor/x"), topics.request(client_id)
    below = topics.response(f"{meeting.mqtt.username or client_id}/doctor/{client_id}")
    async with connect(meeting, client_id) as probe:
        filters = (*topics.request_filters, *topics.cancel_filters, topics.command)
        refused = [
            f"{topic_filter} ({reason})"
            for topic_filter in filters
            if (reason := await probe.subscribe(topic_filter, 1)).is_failure
        ]
        for topic in (deep, below):
            await probe.subscribe(topic, 1)
        answer = await probe.publish(below, b"doctor", 1)
        is_said = meeting.protocol == "5"
        is_answer_heard = not is_said and await _comes_back(probe, below)
        request = await probe.publish(deep, b"doctor", 1)
        may_request = request is not None and not request.is_failure
        hears = await _comes_back(probe, deep) if may_request else None
        if hears is False:
            await probe.publish(usual, REFUSED_BY_NODES, 1)
            hears = await _comes_back(probe, usual)
    return _Tried(
        is_said=is_said,
        refused=tuple(refused),
        may_request=may_request,
        may_answer=answer is not None and not answer.is_failure,
        hears=hears,
        is_answer_heard=is_answer_heard,
    )


async def _comes_back(probe: Probe, topic: str) -> bool:
    while message := await probe.receive(NOTHING_S):
        if message.topic == topic:
            return True
    return False
