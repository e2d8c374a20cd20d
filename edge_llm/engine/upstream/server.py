"""The server behind an UpstreamEngine: whether it is there, what it serves, and asking it.

It is asked for its models now and then: often while it can't be reached, seldom while it can. Some
servers answer nothing while they generate, so one that was there and is silent is not taken for
lost; one that refuses the connection is.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
import structlog

from edge_llm.engine.interface import EngineState
from edge_llm.engine.upstream.errors import AgainError, error_of_status, lasting
from edge_llm.engine.upstream.parse import parse_json
from edge_llm.errors import EdgeLLMError, UpstreamError
from edge_llm.protocol import ModelInfo
from edge_llm.settings import OpenAISettings

__all__ = ["UpstreamServer"]

log = structlog.get_logger()

LOOK_EVERY_S = {"offline": 3.0, "loading": 1.0, "ready": 30.0}
LOOK_AGAIN_S = 1.0  # a look that is younger holds for the next request, too
LISTING_TIMEOUT_S = 10.0  # a list of models is not generated
EMPTY_LIST_S = 30.0  # for so long, a server that lists no model is taken for one that loads it
MAX_ERROR_BYTES = 64 * 1024

CONTEXT_NAMES = ("context_len", "context_length", "max_model_len", "max_token_len", "n_ctx_train")
"""Of the field that tells it: ours; Ollama's and OpenRouter's; vLLM's; axllm's; llama-server's."""


class UpstreamServer:
    """A server, as far as it can be known from here; ``run`` keeps looking at it.

    Args:
        settings: where it is.
        max_tokens: of an answer to a request that does not say.
        http: has the key in its headers.
    """

    def __init__(
        self, settings: OpenAISettings, max_tokens: int, http: aiohttp.ClientSession
    ) -> None:
        self.models: tuple[ModelInfo, ...] = ()
        self._settings = settings
        self._max_tokens = max_tokens
        self._http = http
        self._state: EngineState = "loading"
        self._trouble: UpstreamError | None = None
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._looked_at = 0.0
        self._empty_since: float | None = None

    @property
    def state(self) -> EngineState:
        """Loading until it has told its models, offline while it can't be reached."""
        return self._state

    async def run(self) -> None:
        """Look at the server for ever."""
        while True:
            await self.look()
            self._wanted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S[self._state]):
                    await self._wanted.wait()

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Wait until it is known what the server serves; look once more at one that is away.

        Raises:
            UpstreamError: it can't be reached, or can't be used as it is set up.
        """
        age_s = asyncio.get_running_loop().time() - self._looked_at
        if self._state == "offline" and age_s > LOOK_AGAIN_S:
            await self.look()
        while self._state == "loading":
            await self._changed.wait()
        if self._trouble:
            error = UpstreamError(self._trouble.message, retry_after_s=LOOK_EVERY_S["offline"])
            raise error if self._trouble.retryable else lasting(error)
        return self.models

    def look_soon(self) -> None:
        """Have ``run`` look now: something went wrong."""
        self._wanted.set()

    async def look(self) -> None:
        """Ask for the models, and note what comes of it."""
        try:
            async with asyncio.timeout(LISTING_TIMEOUT_S):
                listed = await self._list()
            self._note(self._choose(listed))
        except TimeoutError:
            if self._state != "ready":
                self._lose(UpstreamError(f"{self._url('models')} does not answer"))
        except AgainError as exc:
            self._lose(UpstreamError(exc.error.message))
        except UpstreamError as exc:
            self._lose(exc)
        self._looked_at = asyncio.get_running_loop().time()

    async def post(self, path: str, body: Mapping[str, Any]) -> aiohttp.ClientResponse:
        """Ask for something; return a response of status 200, for the caller to close.

        Raises:
            AgainError: the connection failed, or the server can't answer now.
            EdgeLLMError: the server refuses the request.
        """
        with self.translated():
            response = await self._http.post(self._url(path), json=body)
            if response.status == 200:
                return response
            error = await self._error(response)
        self.look_soon()
        raise error

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what aiohttp raises into AgainError."""
        try:
            yield
        except aiohttp.ClientConnectorError as exc:
            error = UpstreamError(
                f"no server answers at {self._settings.base_url} ({exc.strerror or exc}): "
                "start it, or set engine.openai.base_url"
            )
            self._lose(error)
            raise AgainError(error) from exc
        except (aiohttp.ClientError, OSError) as exc:
            self.look_soon()
            reason = str(exc) or type(exc).__name__
            raise AgainError(
                UpstreamError(f"the connection to {self._settings.base_url} broke: {reason}")
            ) from exc

    def _url(self, path: str) -> str:
        return f"{self._settings.base_url}/{path}"

    async def _list(self) -> list[dict[str, Any]] | None:
        """Return what the server says of its models; none while it loads.

        Raises:
            AgainError: it can't be reached.
            UpstreamError: it refuses our key.
        """
        with self.translated():
            async with self._http.get(self._url("models")) as response:
                if response.status == 503:
                    return None
                if response.status in (401, 403):
                    raise await self._error(response)
                text = await response.text(errors="replace")
        return _models_in(text) if response.status == 200 else []

    async def _error(self, response: aiohttp.ClientResponse) -> EdgeLLMError | AgainError:
        body: object = (await response.content.read(MAX_ERROR_BYTES)).decode(errors="replace")
        response.close()
        with suppress(ValueError):
            body = parse_json(str(body))
        return error_of_status(response.status, body, str(response.url), response.headers)

    def _choose(self, listed: list[dict[str, Any]] | None) -> ModelInfo | None:
        """Return the model that is to be used; none while the server loads it.

        Raises:
            UpstreamError: the settings name none, and the server doesn't either.
        """
        if listed is None:
            return None
        wanted = self._settings.model
        for told in listed:
            if wanted in (None, told["id"]):
                return _model_info(told, self._max_tokens)
        if wanted is not None:
            return _model_info({"id": wanted}, self._max_tokens)
        now = asyncio.get_running_loop().time()
        self._empty_since = self._empty_since or now
        if now - self._empty_since < EMPTY_LIST_S:
            return None
        raise UpstreamError(
            f"{self._url('models')} lists no model: load one, or set engine.openai.model"
        )

    def _note(self, model: ModelInfo | None) -> None:
        self._trouble = None
        if model is None:
            self._enter("loading")
        elif self._state != "ready" or self.models != (model,):
            self.models, self._empty_since = (model,), None
            self._enter("ready")
            log.info("upstream.connected", url=self._settings.base_url, model=model.id)

    def _lose(self, error: UpstreamError) -> None:
        if self._trouble is None or self._trouble.message != error.message:
            log.warning("upstream.lost", url=self._settings.base_url, reason=error.message)
        self._trouble = error
        self._enter("offline")
        self.look_soon()

    def _enter(self, state: EngineState) -> None:
        if state != self._state:
            self._state = state
            self._changed.set()
            self._changed = asyncio.Event()


def _models_in(text: str) -> list[dict[str, Any]]:
    """Return the models of a list, however it is wrapped; whatever has no id is none."""
    try:
        body = parse_json(text)
    except ValueError:
        return []
    models = body.get("data") if isinstance(body, dict) else body
    if not isinstance(models, list):
        return []
    return [
        model for model in models if isinstance(model, dict) and isinstance(model.get("id"), str)
    ]


def _model_info(told: Mapping[str, Any], max_tokens: int) -> ModelInfo:
    meta = told.get("meta")
    all_told = {**(meta if isinstance(meta, dict) else {}), **told}
    capabilities = told.get("capabilities")
    has = (
        capabilities if isinstance(capabilities, list) else ["tools", "thinking"]
    )  # it will say no itself
    return ModelInfo(
        id=told["id"],
        context_len=_first_number(all_told, ("n_ctx", *CONTEXT_NAMES)),
        vocab_size=_first_number(all_told, ("n_vocab", "vocab_size")),
        runtime="openai",
        max_tokens=max_tokens,
        has_thinking="thinking" in has,
        has_tools="tools" in has,
    )


def _first_number(told: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """Return the first that is a number; 0 if nothing was told."""
    numbers = (told.get(name) for name in names)
    return next((number for number in numbers if type(number) is int and number > 0), 0)
