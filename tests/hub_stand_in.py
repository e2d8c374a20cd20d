"""A stand-in for the Hugging Face Hub: model info, files by redirect, ranges, and what goes wrong.

What it says is what the real one says, as far as ``huggingface_hub`` looks at it: the JSON of
``/api/models``, ``/resolve`` with a redirect to another path for large files, ``X-Error-Code``.
"""

import asyncio
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.programs import HOST

__all__ = ["Fault", "Hub", "Served"]

LARGE = (".axmodel", ".onnx", ".bin", ".safetensors", "tokenizer.json")
BLOCK = 1 << 20


@dataclass
class Fault:
    """What goes wrong with a file, from a byte on; once, or for good."""

    at: int
    kind: str
    """``cut`` closes the connection, ``stall`` keeps it and sends nothing, ``flip`` sends another
    byte."""
    times: int = 1


@dataclass
class Served:
    """A request for the bytes of a file."""

    path: str
    first: int
    sent: int = 0


@dataclass
class Hub:
    """Serves repositories until the context is left.

    Attributes:
        repos: the files of each, by path.
        sizes: what it says of the size of a file, where that is not its size.
        gated: repositories that want a licence to be accepted.
        faults: by path of a file.
        served: requests for bytes, in order.
        asked: all requests, as method and path.
        stalled: set while a file stalls.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    faults: dict[str, Fault] = field(default_factory=dict)
    served: list[Served] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def add(self, repo: str, files: Mapping[str, bytes]) -> None:
        self.repos[repo] = dict(files)

    def add_directory(self, repo: str, directory: Path) -> None:
        paths = [path for path in directory.rglob("*") if path.is_file()]
        self.add(repo, {str(path.relative_to(directory)): path.read_bytes() for path in paths})

    def revision(self, repo: str) -> str:
        """The commit: another one when a file is another one."""
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(self.repos[repo].items()):
            digest.update(path.encode() + hashlib.sha256(content).digest())
        return digest.hexdigest()

    def paths(self) -> list[str]:
        return [served.path for served in self.served]

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(ready,))
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(ready))
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        app = web.Application(middlewares=[self._note])
        app.router.add_get("/api/models/{owner}/{name}", self._info)
        app.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._info)
        app.router.add_get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        app.router.add_get("/cdn/{owner}/{name}/{path:.+}", self._large)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        self.url = f"http://{HOST}:{runner.addresses[0][1]}"
        ready.set()
        await self._stop.wait()
        await runner.cleanup()

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        response: web.StreamResponse = await handler(request)
        return response

    async def _info(self, request: web.Request) -> web.Response:
        repo = "{owner}/{name}".format(**request.match_info)
        if repo not in self.repos:
            return _error(404, "RepoNotFound", "Repository not found")
        revision = self.revision(repo)
        if request.match_info.get("revision", "main") not in ("main", revision):
            return _error(404, "RevisionNotFound", "Invalid rev id")
        siblings = [self._sibling(path, file) for path, file in self.repos[repo].items()]
        return web.json_response({"id": repo, "sha": revision, "siblings": siblings})

    def _sibling(self, path: str, content: bytes) -> dict[str, Any]:
        size = self.sizes.get(path, len(content))
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        sibling: dict[str, Any] = {"rfilename": path, "size": size, "blobId": blob.hexdigest()}
        if path.endswith(LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            sibling["lfs"] = {"size": size, "sha256": sha256, "pointerSize": 134}
        return sibling

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        repo = "{owner}/{name}".format(**request.match_info)
        path = request.match_info["path"]
        if repo in self.gated and "Authorization" not in request.headers:
            return _error(403, "GatedRepo", f"Access to model {repo} is restricted")
        if path not in self.repos[repo]:
            return _error(404, "EntryNotFound", "Entry not found")
        if path.endswith(LARGE):
            raise web.HTTPFound(f"/cdn/{repo}/{path}")
        return await self._send(request, repo, path)

    async def _large(self, request: web.Request) -> web.StreamResponse:
        repo = "{owner}/{name}".format(**request.match_info)
        return await self._send(request, repo, request.match_info["path"])

    async def _send(self, request: web.Request, repo: str, path: str) -> web.StreamResponse:
        content = self.repos[repo][path]
        first = request.http_range.start or 0
        served = Served(path, first)
        self.served.append(served)
        response = web.StreamResponse(status=206 if first else 200)
        response.content_length = len(content) - first
        if first:
            response.headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        await response.prepare(request)
        fault = self._fault(path, first)
        end = fault.at if fault and fault.kind != "flip" else len(content)
        for start in range(first, end, BLOCK):
            block = bytearray(content[start : min(start + BLOCK, end)])
            if fault and fault.kind == "flip" and start <= fault.at < start + len(block):
                block[fault.at - start] ^= 1
            await response.write(block)
            served.sent += len(block)
        if fault and fault.kind == "cut" and request.transport:
            request.transport.close()  # what was written goes out before
        elif fault and fault.kind == "stall":
            self.stalled.set()
            await asyncio.sleep(60)
        return response

    def _fault(self, path: str, first: int) -> Fault | None:
        fault = self.faults.get(path)
        if fault is None or not fault.times or fault.at < first:
            return None
        fault.times -= 1
        return fault


def _error(status: int, code: str, message: str) -> web.Response:
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    return web.json_response({"error": message}, status=status, headers=headers)
