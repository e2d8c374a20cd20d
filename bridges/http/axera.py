"""What AXERA's ``main_api`` has besides ``/api/generate``: the beginning and the stop of a talk.

``POST /api/reset`` begins a conversation for the address that it comes from. From then on a bare
prompt from there is its next turn; without a reset each prompt stands alone.
"""

from typing import Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from bridges.http.body import noted_if_refused, read_body
from bridges.http.conversation import KEPT
from bridges.http.endpoint import Endpoint

__all__ = ["ENDPOINTS", "routes"]


class ResetBody(BaseModel):
    """The body of ``POST /api/reset``."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, use_attribute_docstrings=True
    )

    system_prompt: str = ""
    """The system turn of the conversation; none if it is empty."""


class StatusReply(TypedDict):
    """It is done."""

    status: Literal["ok"]


async def reset(request: web.Request) -> web.Response:
    """Begin the conversation of this client's address anew."""
    with noted_if_refused(request):
        body = await read_body(request, ResetBody)
    request.app[KEPT].reset(request.remote, body.system_prompt)
    return web.json_response(StatusReply(status="ok"))


async def stop(request: web.Request) -> web.Response:
    """End the answer that is being given in this client's conversation."""
    if conversation := request.app[KEPT].find(request.remote):
        conversation.stop()
    return web.json_response(StatusReply(status="ok"))


ENDPOINTS = (
    Endpoint("POST", "/api/reset", reset, StatusReply, ResetBody),
    Endpoint("GET", "/api/stop", stop, StatusReply),
)

routes = [endpoint.route for endpoint in ENDPOINTS]
