"""What the core and its worker process say to each other."""

import json
from collections.abc import Iterable

from pydantic import ValidationError

from edge_llm.engine.worker.frames import (
    FROM_WORKER,
    TO_WORKER,
    Cancel,
    Check,
    Checked,
    Failed,
    Frame,
    Generate,
    GivenUp,
    Happened,
    Loading,
    Prepare,
    Ready,
    Start,
    encode,
)
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    ErrorBody,
    Message,
    ModelInfo,
    TokenLogprob,
    ToolCallDelta,
)
from edge_llm.settings import EngineSettings
from tests.fuzz.json_mutation import json_mutator, json_words
from tests.fuzz.target import Target
from tests.test_malformed import VALID


def check(data: bytes) -> None:
    for reader in (TO_WORKER, FROM_WORKER):
        try:
            frame: Frame = reader.validate_json(data)
        except ValidationError:
            continue
        line = encode(frame)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1, "a line is a frame"
        assert encode(reader.validate_json(line)) == line


def seeds() -> Iterable[bytes]:
    request = ChatRequest.model_validate_json(
        json.dumps({name: VALID[name] for name in VALID if name in ChatRequest.model_fields})
    )
    token = TokenLogprob(token="ö", bytes=(195, 182), logprob=-0.5)
    call = ToolCallDelta(index=0, id="c", name="f", arguments="{}")
    delta = Delta(text="a\nb", tool_calls=(call,), logprobs=(token,), token_ids=(1, 2))
    error = ErrorBody(code="internal", message="a", param="b", retry_after_s=1)
    frames: list[Frame] = [
        Start(settings=EngineSettings()),
        Generate(id=1, request=request, resume=(1, 2)),
        Check(id=1, request=ChatRequest(prompt="Hi")),
        Cancel(id=1),
        Prepare(conversations=((Message(role="user", content="Hi"),),)),
        Loading(done=1, total=2),
        Ready(models=(ModelInfo(id="a", context_len=9, vocab_size=9),), loaded={"why": "so"}),
        Happened(id=1, event=delta),
        Happened(id=1, event=Done(finish_reason="stop")),
        Checked(id=1, error=error),
        GivenUp(id=1),
        Failed(error=error),
    ]
    return [encode(frame).rstrip() for frame in frames]


NAMES = sorted(
    {name for frame in Frame.__subclasses__() for name in frame.model_fields}
    | {str(frame.model_fields["type"].default) for frame in Frame.__subclasses__()}
)
TARGET = Target(check, seeds, json_words(*NAMES), mutate=json_mutator())
