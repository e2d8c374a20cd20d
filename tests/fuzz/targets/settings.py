"""Settings from a file and from the environment."""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_llm.errors import ConfigurationError
from edge_llm.settings import Settings, load_settings
from edge_llm.topics import Topics, explain_bad_filter
from tests.fuzz.source import Source, join
from tests.fuzz.target import Target

ROOT = Path(__file__).parent.parent.parent.parent
FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-settings-")
FILE = Path(FOLDER.name) / "edge-llm.toml"
DOCUMENTS = (*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md")
BLOCK = re.compile(r"^```toml\n(.*?)^```", re.DOTALL | re.MULTILINE)


def check(data: bytes) -> None:
    source = Source(data)
    variables: dict[str, str] = {}
    if source.flag():
        name = re.sub(r"[^A-Z_]", "_", source.text().upper())
        variables[f"EDGE_LLM_{name}"] = source.text().replace("\0", "")
    FILE.write_bytes(source.rest())
    with _environment(variables), suppress(ConfigurationError):
        _check_settings(load_settings(FILE))


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)


def _check_settings(settings: Settings) -> None:
    """Check what holds for all settings that are let through."""
    topics = Topics(settings.mqtt.prefix, settings.node)
    for topic_filter in (*topics.request_filters, *topics.cancel_filters, topics.command):
        assert explain_bad_filter(topic_filter) is None
    for route in settings.route:
        assert all(explain_bad_filter(output) is None for output in route.outputs(topics))
    for password in (settings.mqtt.password, settings.engine.openai.api_key):
        if password and len(word := password.get_secret_value()) > 8:
            assert word not in repr(settings.mqtt) + repr(settings.engine)
    settings.model_dump_json()


def seeds() -> Iterable[bytes]:
    files = [ROOT / "examples" / "coyote" / "edge-llm.toml"]
    texts = [file.read_text() for file in files if file.is_file()]
    texts += [block for file in DOCUMENTS for block in BLOCK.findall(file.read_text())]
    texts += [f"[{name}]\n" for name in Settings.model_fields]
    texts += ["a = " + "[" * 700, 'mqtt.prefix = "' + "a/" * 600 + 'a"\n[[route]]\ntopic = "x/+"\n']
    texts += [
        '[preset."ü"]\n',
        "node = 'a'\n[mqtt]\npassword = 'open sesame'\n",
        "x = 2026-01-01\n",
    ]
    for text in texts:
        yield b"\0" + text.encode()
    yield join((1,), "MQTT__PORT", "1884", "")
    yield join((1,), "MQTT__CLIENT", '[{"match": "a", "max_bytes": 99}]', "")
    yield join((1,), "ROUTE", '[{"topic": "a"}]', 'node = "x"')
    yield join((1,), "PRESET__A__PROMPT", "Hi", "")


def _names() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        yield name
        yield f"[{name}]"
        inside = getattr(field.annotation, "model_fields", {})
        yield from inside


TARGET = Target(
    check, seeds, (*sorted(set(_names())), "[[route]]", " = ", '"""', "{{ ", " }}", "{%")
)
