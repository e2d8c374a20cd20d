"""What ``edge-llm watch`` makes of messages, and how it draws that: no broker, no terminal."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from edge_llm.watch.screen import Screen
from edge_llm.watch.seen import Happening
from edge_llm.watch.state import FORGET_AFTER_S, MAX_NODES, MAX_REPLIES, MAX_REQUESTS, State
from edge_llm.watch.text import fit, fit_end, one_line

NASTY = "\x1b[31mred\x1b]0;title\x07 \x9b2J [bold]b[/bold]\r\n\u202eevil\u2066 \ud83d end"
INFO = {"version": "1.2", "engine": "worker", "queue_limit": 4}
MODEL = {"id": "tiny", "context_len": 512, "vocab_size": 9}


class Watched:
    """A state, and a clock that goes on by a second with each message."""

    def __init__(self) -> None:
        self.state = State()
        self.now = 100.0

    def __call__(self, topic: str, payload: str | dict[str, Any] = "", **how: Any) -> Any:
        text = payload if isinstance(payload, str) else json.dumps(payload)
        self.now += 1
        return self.state.feed(f"llm/{topic}", text.encode(), self.now, **how)


@pytest.fixture
def feed() -> Watched:
    return Watched()


# State ------------------------------------------------------------------------------------------


def test_a_request_from_its_question_to_its_answer(feed: Watched) -> None:
    body = {"preset": "oracle", "messages": [{"role": "user", "content": "Who\nare you?"}]}
    assert feed("request/esp1/42", body) == Happening(
        "request", "esp1/42", "asked", "[oracle] Who are you?"
    )
    seen = feed.state.requests["esp1/42"]
    assert (seen.waits, feed.state.num_waiting) == (True, 1)
    below = "response/esp1/42"
    assert feed(f"{below}/event", {"event": "queued", "position": 2}).what == "queued 2"
    assert seen.waits
    assert feed(f"{below}/event", {"event": "started"}).what == "started"
    assert not seen.waits
    assert feed(f"{below}/event", {"event": "first_token"}).what == "speaking"
    assert feed(f"{below}/delta", {"seq": 0, "text": "I am "}) is None
    assert feed(f"{below}/delta", {"seq": 1, "text": "the\nsea"}) is None
    assert (seen.state, seen.text, seen.num_chars) == ("speaking", "I am the sea", 12)
    assert feed(f"{below}/event", {"event": "done", "finish_reason": "stop"}) is None
    done = {"id": "esp1/42", "node": "x", "text": "I am the sea", "finish_reason": "stop"}
    happening = feed(below, {**done, "usage": {"completion_tokens": 4}})
    assert happening == Happening("reply", "esp1/42", "stop, 4 tokens, 7.0 s", "I am the sea")
    assert not feed.state.requests
    assert (feed.state.num_answered, feed.state.num_failed) == (1, 0)


def test_plain_text_in_and_out(feed: Watched) -> None:
    assert feed("request/button7", "Hello").text == "Hello"
    assert feed("response/button7/delta", "Good ").what == "speaking"
    assert feed("response/button7/part/0", "Good evening") is None
    assert feed("response/button7", "Good evening") == Happening(
        "reply", "button7", "text, 3.0 s", "Good evening"
    )


def test_failures_have_their_code(feed: Watched) -> None:
    feed("request/a", {"prompt": "Hi"})
    failed = {"id": "a", "node": "x", "error": {"code": "queue_full", "message": "too many"}}
    assert feed("response/a", failed) == Happening("error", "a", "queue_full", "too many")
    feed("request/b", "Hi")
    assert feed("response/b/error", "expired: late") == Happening("error", "b", "expired", "late")
    assert [reply.took_s for reply in feed.state.replies] == [1.0, 1.0]
    assert (feed.state.requests, feed.state.num_failed) == ({}, 2)


def test_a_fallback_line_is_not_another_answer(feed: Watched) -> None:
    feed("request/a", "Hi")
    feed("response/a/error", "engine_failed: died")
    feed.now -= 0.9
    assert feed("response/a", "The oracle sleeps.").what == "fallback"
    assert (feed.state.num_answered, feed.state.num_failed) == (0, 1)


def test_a_refused_copy_leaves_the_request_in_hand(feed: Watched) -> None:
    feed("request/a", "Hi")
    refused = feed("response/a/error", {"code": "duplicate_id", "message": "still being answered"})
    assert refused.what == "duplicate_id"
    assert list(feed.state.requests) == ["a"]


def test_cancelling_shows(feed: Watched) -> None:
    assert feed("cancel/a") is None
    feed("request/a", "Hi")
    assert feed("cancel/a").what == "cancelled by its sender"
    assert feed.state.requests["a"].state == "cancelling"


def test_replies_on_response_topics_are_found(feed: Watched) -> None:
    for number, topic in enumerate(("esp1/reply/42", "llm/response/mine")):
        feed(f"request/a{number}", "Hi", respond_to=topic)
        state = feed.state
        assert state.feed(f"{topic}/delta", b"Ho", feed.now).who == f"a{number}"  # type: ignore[union-attr]
        assert state.feed(topic, b"Ho", feed.now).who == f"a{number}"  # type: ignore[union-attr]
        assert not state.requests
    assert feed.state.feed("esp1/reply/42", b"Ho", feed.now) is None
    assert not feed.state._elsewhere


def test_what_was_asked_out_of_sight_is_shown_when_it_is_answered(feed: Watched) -> None:
    feed("response/bell/delta", "Ding")
    assert feed.state.requests["bell"].is_older
    reply = {"id": "bell", "node": "x", "text": "Ding dong", "timing": {"total_s": 2.5}}
    assert feed("response/bell", reply).what == "stop, 2.5 s"


def test_ids_that_look_like_levels_are_told_apart(feed: Watched) -> None:
    for request_id in ("delta", "error/1", "part/7", "event"):
        feed(f"request/{request_id}", "Hi")
        feed(f"response/{request_id}/delta", "Ho")
        assert list(feed.state.requests) == [request_id]
        assert feed(f"response/{request_id}", "Ho").who == request_id
        assert not feed.state.requests


def test_what_is_retained_is_old(feed: Watched) -> None:
    for topic in ("request/a", "response/a", "response/a/delta", "cancel/a"):
        assert feed(topic, "x", is_retained=True) is None
    assert not feed.state.requests
    assert not feed.state.replies
    assert feed("request/a", "") is None  # clears a retained one
    assert feed("response/a", "") is None


def test_nodes_come_and_go_and_are_restarted(feed: Watched) -> None:
    info = {**INFO, "node": "pi5", "boot_id": "b1"}
    assert feed("node/pi5/info", {**info, "models": []}, is_retained=True).text == "no model yet"
    feed("node/pi5/activity", "loading 3/37", is_retained=True)
    assert feed("node/pi5/status", "online", is_retained=True).what == "online"
    node = feed.state.nodes["pi5"]
    assert (node.status, node.activity, node.version) == ("online", "loading 3/37", "1.2")
    assert node.is_older
    assert feed("node/pi5/info", {**info, "models": [MODEL]}).text == "tiny"
    assert feed("node/pi5/info", {**info, "models": [MODEL]}) is None
    assert node.is_older
    assert feed("node/pi5/status", "offline").what == "offline"
    assert feed("node/pi5/status", "offline") is None
    assert feed("node/pi5/status", "online").what == "online"
    assert (node.since, node.is_older) == (feed.now, False)
    feed("node/pi5/info", {**info, "models": [MODEL], "boot_id": "b2"})
    assert node.since == feed.now
    complaint = {"code": "invalid_id", "message": "the second level may not be 'delta'"}
    assert feed("node/pi5/error", complaint)[:3] == ("error", "pi5", "invalid_id")
    assert feed("node/pi5/status", "").what == "removed"
    assert not feed.state.nodes


def test_its_memory_is_bounded(feed: Watched) -> None:
    for number in range(2000):
        feed.now -= 1  # all in one second
        feed(f"node/n{number}/status", "online")
        feed(f"request/r{number}", "x" * 1000, respond_to=f"e/reply/{number}")
        feed(f"response/s{number}/delta", "x" * 1000)
        feed(f"response/q{number}", "x" * 1000)
    state = feed.state
    assert len(state.nodes) == MAX_NODES
    assert len(state.requests) <= MAX_REQUESTS + 1
    assert len(state._elsewhere) <= MAX_REQUESTS + 1
    assert len(state.replies) == MAX_REPLIES
    assert all(len(seen.prompt + seen.text) <= 400 for seen in state.requests.values())
    assert "r1999" in state.requests


def test_requests_that_nobody_answers_are_forgotten(feed: Watched) -> None:
    feed("request/a", "Hi")
    feed("request/b", "Hi")
    feed.now += FORGET_AFTER_S - 10
    feed("response/b/event", {"event": "queued", "position": 1})
    feed.state.forget(feed.now + 20)
    assert list(feed.state.requests) == ["b"]


TOPICS = ("request/a", "response/a", "response/a/error", "response/a/event", "response/a/delta")
NODE_TOPICS = ("node/x/status", "node/x/activity", "node/x/info", "node/x/error", "node/x", "node")
PAYLOADS = st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "node", "text", "error", "event", "seq", "messages", "code"]),
            inner,
        )
    ),
    max_leaves=9,
).map(lambda value: json.dumps(value).encode())


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(TOPICS + NODE_TOPICS), PAYLOADS | JSON), max_size=9),
    st.integers(1, 120),
    st.integers(1, 40),
)
def test_nothing_that_is_published_breaks_it(
    messages: list[tuple[str, bytes]], width: int, height: int
) -> None:
    state = State()
    for now, (topic, payload) in enumerate(messages):
        state.feed(f"llm/{topic}", payload, now)
    # Rich and terminals differ on the width of some signs, so nobody can promise columns.
    check_screen(state, width, height, is_exact=False)
    check_screen(state, 200, 40, is_exact=False)


# Screen -----------------------------------------------------------------------------------------


def render(state: State, width: int, height: int, **how: Any) -> str:
    screen = Screen("broker:1883", **how)
    console = Console(width=width, height=height, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(screen.draw(state, 200.0, width, height), end="")
    return capture.get()


def check_screen(state: State, width: int, height: int, *, is_exact: bool = True) -> list[str]:
    """Draw a state, and make sure that it fills the screen."""
    text = render(state, width, height)
    lines = text.split("\n")
    assert len(lines) == height
    if is_exact:
        assert {cell_len(line) for line in lines} == {width}
    assert all(sign.isprintable() for line in lines for sign in line)
    return lines


@pytest.fixture
def busy(feed: Watched) -> State:
    for number in range(30):
        feed("node/stage-left/status", "online")
        feed(f"request/esp{number}/1", f"question {number}")
        feed(f"response/done{number}", f"answer {number}")
    feed("response/esp0/1/delta", "word " * 200 + "the newest words")
    feed("response/bad/error", "queue_full: too many")
    return feed.state


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (40, 10), (9, 4), (1, 1)])
def test_it_fills_any_screen(busy: State, width: int, height: int) -> None:
    check_screen(busy, width, height)
    check_screen(State(), width, height)


def test_80_by_24_has_everything(busy: State) -> None:
    lines = check_screen(busy, 80, 24)
    header = "edge-llm at broker:1883 30 in hand, 29 waiting 30 answered, 1 failed"
    assert " ".join(lines[0].split()) == header
    assert [line.split()[0] for line in lines if line.isupper()] == ["NODE", "REQUEST", "REPLY"]
    text = "\n".join(lines)
    assert "stage-left" in text
    assert "… 22 more" in text
    assert "queue_full" in text
    assert "answer 29" in text
    [speaking] = [line for line in lines if line.startswith("esp0/1 ")]
    assert speaking.rstrip().endswith("the newest words")


def test_texts_can_be_left_out(busy: State) -> None:
    text = render(busy, 100, 50, texts=False)
    assert "question" not in text
    assert "answer 29" not in text
    assert "1016 characters" in text
    assert "too many" in text  # what is wrong is no visitor's


def test_errors_are_red(busy: State) -> None:
    drawn = Screen("b").draw(busy, 200.0, 80, 24)
    spans = [span for span in drawn.spans if str(span.style) == "red"]
    red = [drawn.plain[span.start : span.end].strip() for span in spans]
    assert red == ["bad", "", "queue_full", "too many"]


def test_trouble_takes_the_first_line() -> None:
    drawn = Screen("b").draw(State(), 0.0, 60, 24, "mqtt.refused: Not authorized")
    assert drawn.plain.startswith("b: mqtt.refused: Not authorized")


def test_text_of_others_is_harmless(feed: Watched) -> None:
    nasty = NASTY.encode(errors="replace").decode()
    feed(f"node/{nasty}/status", nasty)
    feed(f"request/{nasty}", nasty)
    feed(f"response/x/{nasty}/delta", nasty)
    feed(f"response/{nasty}", nasty)
    feed(f"response/y{nasty}/error", nasty)
    text = "".join(check_screen(feed.state, 200, 40))
    assert "[bold]b[/bold]" in text
    assert "\N{REPLACEMENT CHARACTER}[31mred" in text
    assert "evil" in text
    assert "\u202e" not in text


def test_signs_of_two_columns_are_counted_as_such() -> None:
    assert (fit("你好世界", 6), fit("你好世界", 5)) == ("你好 …", "你好…")
    assert (fit_end("你好世界", 6), fit_end("你好世界", 5)) == ("…世界", "…世界")
    assert (fit("ab", 4), fit("abcdef", 4), fit("abc", 0)) == ("ab  ", "abc…", "")
    assert (fit_end("ab", 4), fit_end("abcdef", 4), fit_end("abc", 0)) == ("ab", "…def", "")
    assert one_line("\u0301 a\u200d\tb\n c") == "a b c"
