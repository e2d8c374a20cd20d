"""The commands: serve, demo, ask, watch, http, api-key, doctor, export, home-assistant."""

import argparse
import asyncio
import functools
import json
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_llm import __version__
from edge_llm.client import RemoteEngine
from edge_llm.errors import ConfigurationError, EdgeLLMError
from edge_llm.log import log_exposures, set_up_log
from edge_llm.protocol import Delta, MqttRequest, validate
from edge_llm.settings import ApiKeySettings, Settings, describe, load_settings

__all__ = ["run"]

CONNECT_TIMEOUT_S = 10.0
HTTP_CONNECT_TIMEOUT_S = 2.0  # after a start or a break; a client that is told 503 comes back

DESCRIPTION = """\
A language model for art installations: MQTT in, generated text out.

  edge-llm demo                     see it talk: broker, model and HTTP in one, nothing to install
  edge-llm serve                    serve the broker of this machine, and HTTP on port 8000
  edge-llm serve --model DIR        ... with a model of yours
  edge-llm ask "Who are you?"       ask a node over MQTT; the answer streams to the terminal
  edge-llm watch                    see what happens at the broker: nodes, requests, replies, errors
  edge-llm http --host BROKER       serve HTTP on this machine for a node that is on another one
  edge-llm api-key NAME             make a key for HTTP, and the lines of settings that let it in
  edge-llm doctor --model DIR       say what a model needs, and how fast it will be
  edge-llm export HF_DIR OUT        make a model directory of Hugging Face weights (Qwen2, Qwen3)
  edge-llm home-assistant --remove  take this node out of Home Assistant
"""

SETTINGS_HELP = """\
Settings come from a TOML file (--config) and from the environment, which wins:

  node = "stage-left"               EDGE_LLM_NODE=stage-left
  [mqtt]
  host = "broker.local"             EDGE_LLM_MQTT__HOST=broker.local
  username = "llm"                  EDGE_LLM_MQTT__USERNAME=llm
  [http]
  port = 8080                       EDGE_LLM_HTTP__PORT=8080
  [engine]
  max_tokens = 120                  EDGE_LLM_ENGINE__MAX_TOKENS=120
  [engine.worker]
  model = "/srv/qwen3-0.6b"         EDGE_LLM_ENGINE__WORKER__MODEL=/srv/qwen3-0.6b
"""


def run(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    args = _make_parser().parse_args(arguments)
    try:
        return int(args.command(args))
    except EdgeLLMError as exc:
        return _fail(exc)
    except BaseExceptionGroup as group:
        ours = group.subgroup(EdgeLLMError)
        if ours is None:
            raise
        return _fail(_first_leaf(ours))


def _fail(exc: BaseException) -> int:
    print(f"edge-llm: {exc}", file=sys.stderr)
    return 1


def _first_leaf(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _make_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="edge-llm", description=DESCRIPTION, epilog=SETTINGS_HELP, formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=f"edge-llm {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _add_serve,
        _add_demo,
        _add_ask,
        _add_watch,
        _add_http,
        _add_api_key,
        _add_doctor,
        _add_export,
        _add_home_assistant,
    ):
        add(commands)
    return parser


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve MQTT and HTTP until stopped",
        description="Serve MQTT and HTTP until stopped (Ctrl-C or SIGTERM).",
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config(serve)
    serve.add_argument("--model", type=Path, metavar="DIR", help="model directory to serve")
    serve.add_argument("--paced", action="store_true", help="rehearse: a fixed text at a set speed")
    serve.add_argument("--no-mqtt", action="store_true", help="serve HTTP only")
    serve.add_argument("--no-http", action="store_true", help="serve MQTT only")
    serve.set_defaults(command=_serve)


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="see it talk: broker, model and HTTP in one",
        description="Start a broker, the built-in model and HTTP on this machine, ask one question "
        "over MQTT, and serve until Ctrl-C. Ports that are taken are replaced by free ones.",
    )
    _add_config(demo)
    demo.set_defaults(command=_demo)


def _add_ask(commands: Any) -> None:
    ask = commands.add_parser(
        "ask",
        help="ask a node over MQTT",
        description="Ask a node over MQTT; the answer streams to the terminal. Ctrl-C cancels it.",
    )
    _add_config(ask)
    _add_broker(ask)
    ask.add_argument("prompt", help="what to ask; '-' reads it from the standard input")
    ask.add_argument("--node", metavar="NAME", help="the only node to ask")
    ask.add_argument("--preset", metavar="NAME", help="a persona of the node")
    ask.add_argument("--system", metavar="TEXT", help="who the model is to be")
    ask.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    ask.add_argument("--temperature", type=float, metavar="T", help="0 is the likeliest answer")
    ask.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds of silence")
    ask.set_defaults(command=_ask)


def _add_watch(commands: Any) -> None:
    watch = commands.add_parser(
        "watch",
        help="see what happens at the broker",
        description="Show the nodes of a broker, the requests in hand and the latest replies; "
        "where the output is no terminal, one line for each thing that happens. It only reads; "
        "what visitors ask is shown, unless --no-texts. Ctrl-C ends it.",
    )
    _add_config(watch)
    _add_broker(watch)
    watch.add_argument("--seconds", type=float, metavar="N", help="end after this time")
    watch.add_argument(
        "--texts",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show what is asked and answered",
    )
    watch.set_defaults(command=_watch)


def _add_http(commands: Any) -> None:
    http = commands.add_parser(
        "http",
        help="serve HTTP for a node on another machine",
        description="Serve HTTP on this machine for a node behind a broker: for programs that\n"
        "can't reach the node, or a node whose own HTTP is switched off. While no node is\n"
        "there, requests are answered with 503 node_offline at once. Ctrl-C or SIGTERM ends it.",
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config(http)
    _add_broker(http)
    http.add_argument(
        "--node", metavar="NAME", help="the only node to ask; else whichever is there"
    )
    http.add_argument(
        "--http-host", metavar="ADDRESS", help="address to listen on; 0.0.0.0 for all"
    )
    http.add_argument("--http-port", type=int, metavar="PORT", help="port to listen on; 0 for any")
    http.set_defaults(command=_http)


def _add_api_key(commands: Any) -> None:
    api_key = commands.add_parser(
        "api-key",
        help="make a key for HTTP",
        description="Make a key for HTTP at random. It is shown once; the settings hold no more of "
        "it than its SHA-256. As soon as there is a key, requests without one are refused.",
    )
    api_key.add_argument("name", metavar="NAME", help="whose it is, for the log")
    api_key.add_argument("--per-min", type=float, metavar="N", help="most requests in a minute")
    api_key.set_defaults(command=_api_key)


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="examine the broker, a model and the card",
        description="Say of the broker whether it lets us in and how much it keeps; of a model "
        "directory: is it complete, what geometry it has, what memory it needs, what runs it, how "
        "fast it will be.",
    )
    _add_config(doctor)
    doctor.add_argument("--model", type=Path, metavar="DIR", help="model directory to examine")
    doctor.add_argument(
        "--load",
        action="store_true",
        help="load all of it, and find out how the card can be driven; stop the service before",
    )
    doctor.set_defaults(command=_doctor)


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="make a model directory of Hugging Face weights",
        description="Write the layers of a Qwen2, Qwen2.5 or Qwen3 model (safetensors) as ONNX "
        "graphs that edge-llm runs on the CPU. Needs: pip install 'edge-llm[export]'.",
    )
    export.add_argument("source", type=Path, metavar="HF_DIR", help="config.json, *.safetensors")
    export.add_argument("out", type=Path, metavar="OUT", help="directory to make")
    export.add_argument("--quantize", choices=("fp32", "int8", "int4"), default="fp32")
    export.add_argument("--context-len", type=int, metavar="N", help="tokens of prompt and answer")
    export.add_argument("--name", help="what the model is called; HF_DIR's name otherwise")
    export.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    export.set_defaults(command=_export)


def _add_home_assistant(commands: Any) -> None:
    home_assistant = commands.add_parser(
        "home-assistant",
        help="take a node out of Home Assistant",
        description="Take a node out of Home Assistant: its announcement is cleared at the broker, "
        "and the device goes with its entities. Before that, set enabled = false in "
        "[home_assistant] and restart the node, or it announces itself again.",
    )
    _add_config(home_assistant)
    _add_broker(home_assistant)
    home_assistant.add_argument(
        "--node", metavar="NAME", help="the node to remove; this one if not given"
    )
    home_assistant.add_argument("--remove", action="store_true", required=True, help="remove it")
    home_assistant.set_defaults(command=_home_assistant)


def _add_broker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="the broker's address")
    parser.add_argument("--port", type=int, help="the broker's port")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (TOML)")


def _serve(args: argparse.Namespace) -> int:
    worker = {"model": args.model} if args.model else {}
    kind = {"kind": "paced"} if args.paced else {}
    load = functools.partial(
        load_settings,
        args.config,
        engine={**kind, "worker": worker},
        mqtt={"enabled": False} if args.no_mqtt else {},
        http={"enabled": False} if args.no_http else {},
    )
    settings = load()
    set_up_log(settings.log)
    return _run_until_signalled(_serve_for_ever(settings, load))


async def _serve_for_ever(settings: Settings, load: Callable[[], Settings]) -> None:
    from edge_llm.node import open_node
    from edge_llm.store import store_path
    from edge_llm.systemd import Notifier, reloading

    store = store_path(settings.store, settings.node)
    async with open_node(settings, load, store=store) as node:

        def reload() -> None:
            with reloading():
                node.reload()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        notifier = Notifier(
            is_ready=lambda: node.is_ready,
            status=lambda: node.status,
            is_alive=lambda: node.trouble,
            progress=lambda: node.progress,
        )
        await notifier.run()


def _demo(args: argparse.Namespace) -> int:
    from edge_llm.demo import run_demo

    settings = load_settings(args.config)
    set_up_log(settings.log.model_copy(update={"level": "warning"}))
    return _run_until_signalled(run_demo(settings))


def _ask(args: argparse.Namespace) -> int:
    settings = load_settings(args.config, mqtt=_given(host=args.host, port=args.port))
    set_up_log(settings.log.model_copy(update={"level": "error"}))
    return _run_until_signalled(_ask_once(settings, args), interrupted=130)


def _given(**arguments: object) -> dict[str, object]:
    """Return the arguments that were given; the others are for the settings to say."""
    return {name: value for name, value in arguments.items() if value is not None}


async def _ask_once(settings: Settings, args: argparse.Namespace) -> None:
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    turns = [{"role": "system", "content": args.system}] if args.system else []
    said = {
        "messages": [*turns, {"role": "user", "content": prompt}],
        **_given(max_tokens=args.max_tokens, temperature=args.temperature, preset=args.preset),
    }
    request = validate(MqttRequest, json.dumps(said))
    remote = RemoteEngine(
        settings.mqtt,
        node=args.node,
        connect_timeout_s=min(args.timeout, CONNECT_TIMEOUT_S),
        silence_timeout_s=args.timeout,
    )
    async with remote, aclosing(remote.generate(request)) as events:
        async for event in events:
            if isinstance(event, Delta):
                print(event.text, end="", flush=True)
        print()


def _watch(args: argparse.Namespace) -> int:
    from edge_llm.watch import run_watch

    settings = load_settings(args.config, mqtt=_given(host=args.host, port=args.port))
    set_up_log(settings.log.model_copy(update={"level": "warning"}))
    return _run_until_signalled(run_watch(settings.mqtt, seconds=args.seconds, texts=args.texts))


def _http(args: argparse.Namespace) -> int:
    settings = load_settings(
        args.config,
        mqtt=_given(host=args.host, port=args.port),
        http=_given(host=args.http_host, port=args.http_port),
    )
    set_up_log(settings.log)
    log_exposures(settings)
    return _run_until_signalled(_bridge_http(settings, args.node))


async def _bridge_http(settings: Settings, node: str | None) -> None:
    from bridges.http import open_http

    # HTTP's clients retry by themselves, and show what they wait for.
    remote = RemoteEngine(
        settings.mqtt, node=node, connect_timeout_s=HTTP_CONNECT_TIMEOUT_S, retries=0
    )
    async with remote, open_http(remote, settings.http, node or "any"):
        await asyncio.Event().wait()


def _api_key(args: argparse.Namespace) -> int:
    from bridges.http import hash_key, make_key

    key = make_key()
    try:
        settings = ApiKeySettings(
            name=args.name, sha256=hash_key(key), requests_per_min=args.per_min
        )
    except ValidationError as exc:
        raise ConfigurationError(describe(exc)) from exc
    print(f"The key of {args.name}, which is not shown again: {key}", file=sys.stderr)
    print("These lines belong in the settings file; then restart the node:", file=sys.stderr)
    print("\n[[http.key]]")  # so that '>> edge-llm.toml' does the rest
    for name, value in settings.model_dump(exclude_none=True).items():
        print(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from edge_llm.engine.doctor import examine
    from edge_llm.engine.model import ModelDirectory
    from edge_llm.tiny import MODEL_DIR

    settings = load_settings(args.config)
    set_up_log(settings.log.model_copy(update={"level": "warning"}))
    if settings.mqtt.enabled:
        asyncio.run(_examine_broker(settings))
    worker = settings.engine.worker
    directory = ModelDirectory(args.model or worker.model or MODEL_DIR)
    for heading, text in examine(directory, worker, load=args.load):
        print(f"{heading:<11}{text}", flush=True)
    return 0


async def _examine_broker(settings: Settings) -> None:
    from edge_llm.broker_doctor import examine_broker

    async for heading, text in examine_broker(settings):
        print(f"{heading:<11}{text}", flush=True)


def _export(args: argparse.Namespace) -> int:
    from edge_llm.engine.export import export_model

    export_model(
        args.source,
        args.out,
        quantize=args.quantize,
        context_len=args.context_len,
        name=args.name,
        overwrite=args.overwrite,
    )
    print(f"{args.out} is ready; serve it with: edge-llm serve --model {args.out}")
    return 0


def _home_assistant(args: argparse.Namespace) -> int:
    settings = load_settings(
        args.config, mqtt=_given(host=args.host, port=args.port), **_given(node=args.node)
    )
    set_up_log(settings.log.model_copy(update={"level": "warning"}))
    return _run_until_signalled(_remove_from_home_assistant(settings), interrupted=130)


async def _remove_from_home_assistant(settings: Settings) -> None:
    from bridges.home_assistant import remove_from_home_assistant

    is_gone = await remove_from_home_assistant(
        settings.home_assistant, settings.mqtt, settings.node
    )
    where = f"at {settings.mqtt.host}:{settings.mqtt.port}"
    if is_gone:
        print(f"{settings.node} is removed from Home Assistant {where}")
    else:
        print(f"there is nothing to remove: {settings.node} is not announced {where}")


def _run_until_signalled(main: Coroutine[Any, Any, None], *, interrupted: int = 0) -> int:
    """Run until the end, or until Ctrl-C or SIGTERM cancels it; both end it cleanly."""

    async def runner() -> int:
        task = asyncio.ensure_future(main)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return interrupted
        return 0

    return asyncio.run(runner())
