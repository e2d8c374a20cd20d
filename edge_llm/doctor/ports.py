"""The ports that the node listens on: free, its own, or somebody else's."""

import errno
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator

import psutil

from edge_llm.doctor.case import Case
from edge_llm.doctor.finding import Finding, fail, ok, skip

__all__ = ["examine_ports"]

ANSWER_TIMEOUT_S = 2.0
ANSWER_BYTES = 65_536
LOWEST_FREE = 1024


def examine_ports(case: Case) -> Iterable[Finding]:
    """Whether HTTP can be served where the settings say."""
    http = case.settings.http
    if case.settings_error:
        yield skip("ports.http", "the settings can't be read")
        return
    if not http.enabled:
        yield skip("ports.http", "HTTP is switched off (http.enabled)")
        return
    yield _judge("ports.http", "http.port", http.host, http.port, case.settings.node)
    if http.ollama_port is not None:
        name = "ports.ollama"
        yield _judge(name, "http.ollama_port", http.host, http.ollama_port, case.settings.node)


def _judge(name: str, setting: str, host: str, port: int, node: str) -> Finding:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        _bind(host, port)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return _judge_taken(name, setting, where, _node_at(host, port), node)
        return fail(name, *_explain(exc, setting, host, port))
    return ok(name, f"{where} is free" if port else "a free one is taken")


def _judge_taken(name: str, setting: str, where: str, answers: str | None, node: str) -> Finding:
    if answers == node:
        return ok(name, f"this node serves on {where}")
    port = int(where.rpartition(":")[2])
    by = f"node {answers!r}" if answers else ", ".join(_listeners(port)) or "another program"
    cure = f"sudo ss -ltnp 'sport = :{port}' shows it: stop that, or set another {setting}"
    return fail(name, f"{where} is taken by {by}", cure)


def _explain(exc: OSError, setting: str, host: str, port: int) -> tuple[str, str]:
    """Return why nobody can listen there, and what to do."""
    if exc.errno == errno.EACCES:
        what = f"port {port} is below {LOWEST_FREE}, which is for root"
        return what, f"set {setting} = 8000; a proxy can serve port {port}"
    if exc.errno == errno.EADDRNOTAVAIL:
        what = f"{host} is no address of this machine"
        return what, 'set http.host = "127.0.0.1", or "0.0.0.0" for all; see: ip a'
    return f"{host}:{port}: {exc.strerror or exc}", "see http.host"


def _bind(host: str, port: int) -> None:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = infos[0]
    with socket.socket(family, kind, protocol) as sock:
        # As aiohttp does: a port that was left a minute ago is free.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(1)


def _node_at(host: str, port: int) -> str | None:
    """Return the name of the node that answers there, if one does."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    reached = f"[{reached}]" if ":" in reached else reached
    try:
        url = f"http://{reached}:{port}/health"
        with urllib.request.urlopen(url, timeout=ANSWER_TIMEOUT_S) as answer:
            body = json.loads(answer.read(ANSWER_BYTES))
    except (OSError, ValueError, urllib.error.URLError):
        return None
    name = body.get("node") if isinstance(body, dict) else None
    return name if isinstance(name, str) else None


def _listeners(port: int) -> Iterator[str]:
    """Yield who listens on a port; of other users' processes only root is told."""
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return
    for connection in connections:
        is_it = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        if is_it and connection.pid:
            try:
                yield f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.Error:
                continue
