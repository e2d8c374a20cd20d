"""The settings described: a whole file of them as commented TOML, and a page of the documentation.

Both are read from the models, so nothing has to be written twice. In the file a line of words
begins with ``# ``, one that can be switched on with ``#`` and a name. What is set to nothing by
default has no value there (``#username =``), as TOML can't say "nothing". Tables that may be there
several times, or have names of their own, are shown once, switched off as a whole.
"""

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from edge_llm.settings.root import Settings

__all__ = ["Key", "Table", "read_keys", "settings_file", "settings_page", "settings_tables"]

Schema = Mapping[str, Any]
Plugins = Mapping[str, type[BaseModel]]
"""The models of ``[bridge.NAME]``, by name."""

WIDTH = 96
LARGE = 2**53
"""A bound that is larger is the format's own, and nobody's to know."""

HEAD = """\
Settings of edge-llm: "edge-llm serve --config FILE" reads them.

A line that begins with "#" and a name is a setting with its default: take the "#" away to change
it. One without a value is not set by default. A key that does not exist is refused by its name;
"edge-llm settings --check FILE" says whether a file is right. The environment wins over the file:
EDGE_LLM_MQTT__HOST=broker.local is "host" in [mqtt].
"""

PAGE_HEAD = """\
# Settings

<!-- Generated: edge-llm settings --markdown >docs/configuration.md -->

`edge-llm serve --config FILE` reads a TOML file. This page lists all that can stand there;
`edge-llm settings` prints the same as a file to begin with, every setting commented out:

```sh
edge-llm settings >edge-llm.toml
edge-llm settings --check edge-llm.toml
```

`--check` says what is wrong with a file, or which settings differ from the defaults, without
showing passwords. A key that does not exist is refused by its name; a node that is running keeps
what it has when a changed file is wrong.

**The environment wins over the file**: `EDGE_LLM_MQTT__HOST=broker.local` sets `host` in `[mqtt]`,
`EDGE_LLM_ENGINE__WORKER__DEVICE=1` sets `device` in `[engine.worker]`. Lists and whole tables are
JSON there. What the command line says wins over both.

**Secrets** belong in files of their own (`mqtt.password_file`, `engine.openai.api_key_file`), or
come as systemd credentials (`mqtt-password`, `nats-password`, `openai-api-key`); they are read
when they are needed.

"Not set" is the default of what does nothing, or finds its value by itself, until it is given.
Times are in seconds (`_s`), temperatures in degrees Celsius. `[[route]]` is a table that may be
there several times, `[preset.NAME]` one with a name of your choice. Presets, routes and limits of
devices take effect without a restart, by `systemctl reload`, SIGHUP, or the command `reload`.
"""


@dataclass(frozen=True, slots=True)
class Key:
    """One setting."""

    name: str
    words: str
    """What its docstring says; empty if it has none."""
    form: str
    """Type, choices and range, in words."""
    default: Any
    """As in JSON; None if it is not set."""
    is_required: bool = False
    """It must be there when its table is."""

    @property
    def value(self) -> str:
        """The default as TOML; empty if there is none."""
        # JSON's texts, numbers, truths and lists of them are TOML's.
        return "" if self.default is None else json.dumps(self.default, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file: a section, or one of those that may be there any number of times."""

    path: str
    """``engine.worker``; empty for the keys before the first table."""
    kind: Literal["section", "named", "repeated"]
    words: str
    keys: tuple[Key, ...]

    @property
    def header(self) -> str:
        """The line that begins it."""
        return f"[[{self.path}]]" if self.kind == "repeated" else f"[{self.path}]"


def settings_tables(plugins: Plugins | None = None) -> list[Table]:
    """Return all tables of the settings, in the order in which they stand in a file.

    Args:
        plugins: bridges whose settings are listed, too.
    """
    return list(_read(Settings, "", "section", "", plugins or {}))


def settings_file(plugins: Plugins | None = None) -> str:
    """Return a settings file that has every setting, commented out."""
    return "\n".join([_comment(HEAD), *(_file_part(table) for table in settings_tables(plugins))])


def settings_page(plugins: Plugins | None = None) -> str:
    """Return the page of the documentation that has every setting."""
    return "\n".join([PAGE_HEAD, *(_page_part(table) for table in settings_tables(plugins))])


def read_keys(model: type[BaseModel], names: Mapping[str, str] | None = None) -> list[Key]:
    """Return the fields of any model, described as settings are.

    Args:
        model: each of its fields is one key, those that hold another model, too.
        names: how to call the values of other models, by the name of the model; else ``table``.
    """
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    named = {name: {"words": words} for name, words in (names or {}).items()}
    return [
        _key(name, field, {**definitions, **named}, is_required=name in schema.get("required", ()))
        for name, field in schema["properties"].items()
    ]


def _read(
    model: type[BaseModel],
    path: str,
    kind: Literal["section", "named", "repeated"],
    words: str,
    plugins: Plugins,
) -> Iterator[Table]:
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def walk(
        schema: Schema, path: str, kind: Literal["section", "named", "repeated"], words: str
    ) -> Iterator[Table]:
        keys, tables = [], []
        for name, field in schema["properties"].items():
            inner = f"{path}.{name}" if path else name
            said = field.get("description", "")
            if "$ref" in field and "properties" in _resolve(field, definitions):
                section = _resolve(field, definitions)
                tables.append(walk(section, inner, "section", said or _words(section)))
            elif "$ref" in field.get("items", {}) and field.get("default") == []:
                entry = _resolve(field["items"], definitions)
                tables.append(walk(entry, inner, "repeated", said))
            elif "$ref" in (values := field.get("additionalProperties") or {}):
                entry = _resolve(values, definitions)
                tables.append(walk(entry, f"{inner}.NAME", "named", said))
            elif "additionalProperties" in field:
                tables.append(_bridges(inner, said, plugins))
            else:
                required = name in schema.get("required", ())
                keys.append(_key(name, field, definitions, is_required=required))
        yield Table(path, kind, words, tuple(keys))
        for table in tables:
            yield from table

    yield from walk(schema, path, kind, words)


def _bridges(path: str, words: str, plugins: Plugins) -> Iterator[Table]:
    yield Table(f"{path}.NAME", "named", words, ())
    for name, model in plugins.items():
        yield from _read(model, f"{path}.{name}", "named", _words(model.model_json_schema()), {})


def _words(schema: Schema) -> str:
    return str(schema.get("description", ""))


def _resolve(field: Schema, definitions: Schema) -> Schema:
    reference = field.get("$ref")
    found: Schema = definitions[reference.rpartition("/")[2]] if reference else field
    return found


def _key(name: str, field: Schema, definitions: Schema, *, is_required: bool) -> Key:
    form = _form(field, definitions)
    return Key(name, field.get("description", ""), form, field.get("default"), is_required)


def _form(field: Schema, definitions: Schema) -> str:
    field = _resolve(field, definitions)
    if "words" in field:
        return str(field["words"])
    if choices := field.get("anyOf") or field.get("oneOf"):
        forms = (_form(choice, definitions) for choice in choices if choice.get("type") != "null")
        return _either(dict.fromkeys(forms))
    if "enum" in field or "const" in field:
        return _either(json.dumps(value) for value in field.get("enum", [field.get("const")]))
    kind = field.get("type")
    if kind == "array":
        return f"list of {_many(_form(field.get('items', {}), definitions))}{_most(field)}"
    if kind == "string":
        return {"path": "path", "password": "secret text"}.get(
            field.get("format", ""), "text"
        ) + _most(field)
    words = {"integer": "whole number", "number": "number", "boolean": "true or false"}
    return words.get(str(kind), "table") + _range(field)


def _either(forms: Iterable[str]) -> str:
    *others, last = [word for form in forms for word in form.split(" or ")]
    return f"{', '.join(others)} or {last}" if others else last


def _many(form: str) -> str:
    plain = form in ("text", "path", "table", "number", "whole number")
    return f"{form}s" if plain else form


def _most(field: Schema) -> str:
    if "maxItems" in field:
        return f", at most {field['maxItems']}"
    return f", at most {field['maxLength']} characters" if "maxLength" in field else ""


def _range(field: Schema) -> str:
    if "minimum" in field and "maximum" in field:
        return f", {field['minimum']} to {field['maximum']}"
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "over",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    said = [
        f"{word} {field[name]}"
        for name, word in bounds.items()
        if name in field and abs(field[name]) < LARGE
    ]
    return f", {' and '.join(said)}" if said else ""


def _file_part(table: Table) -> str:
    off = "" if table.kind == "section" else "#"
    lines = [_comment(table.words)] if table.words else []
    if table.path:
        lines.append(f"{off}{table.header}")
    for key in table.keys:
        form = key.form if key.form.startswith("false,") else key.form[:1].upper() + key.form[1:]
        more = " Must be given." if key.is_required else " Not set." if not key.value else ""
        lines += ["", *filter(None, (_comment(key.words), _comment(f"{form}.{more}")))]
        lines.append(f"#{key.name} = {key.value}".rstrip())
    return "\n".join([*lines, ""])


def _comment(words: str) -> str:
    paragraphs = words.replace("``", "").strip().split("\n\n")
    wrapped = [textwrap.fill(text, WIDTH - 2, break_on_hyphens=False) for text in paragraphs]
    return "\n".join(f"# {line}".rstrip() for line in "\n\n".join(wrapped).splitlines())


def _page_part(table: Table) -> str:
    lines = [f"## `{table.header}`" if table.path else "## Before the first table", ""]
    if table.words:
        lines += [_marked(table.words), ""]
    if table.keys:
        lines += ["| key | | default | |", "|---|---|---|---|"]
    for key in table.keys:
        nothing = "must be given" if key.is_required else "not set"
        default = f"`{key.value}`" if key.value else nothing
        cells = (f"`{key.name}`", key.form, default, _marked(key.words))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, ""] if table.keys else lines)


def _marked(words: str) -> str:
    return " ".join(words.split()).replace("``", "`")
