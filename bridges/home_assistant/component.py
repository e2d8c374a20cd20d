"""What a component of a device is made of: Home Assistant's words for it, and its templates.

Home Assistant takes the text ``None`` for "unknown", which is also how Jinja writes Python's None.
So a template must find None, not nothing, where a reading is null or what it is part of is: a
sensor that is given nothing keeps its old value. The templates are plain Jinja.
"""

from collections.abc import Mapping, Sequence

__all__ = [
    "Component",
    "attributes",
    "counter",
    "diagnostic",
    "enum",
    "measured",
    "on_or_off",
    "read",
    "removed",
    "sensor",
]

Component = Mapping[str, object]
"""As it stands in the announcement, but for its ``unique_id``."""


def read(path: str) -> str:
    """Return an expression for a value of the health message: None if any part of it is null."""
    *way, last = path.split(".")
    found = "value_json"
    for name in way:
        found = f"({found}.get('{name}') or {{}})"
    return f"{found}.get('{last}')"


def sensor(name: str, template: str, icon: str | None = None) -> Component:
    """Make a sensor; the icon is one of Material Design's, where its class brings none."""
    pictured = {"icon": f"mdi:{icon}"} if icon else {}
    return {"platform": "sensor", "name": name, "value_template": template, **pictured}


def measured(
    name: str,
    path: str,
    unit: str,
    *,
    digits: int = 0,
    icon: str | None = None,
    device_class: str | None = None,
) -> Component:
    """Make a sensor whose values are kept, and drawn as a curve.

    Args:
        name: for people.
        path: in the health message: ``card.temperature_celsius``.
        unit: as Home Assistant spells it.
        digits: how many are shown after the point.
        icon: as for ``sensor``.
        device_class: Home Assistant's; it brings an icon, and conversions of the unit.
    """
    return {
        **sensor(name, f"{{{{ {read(path)} }}}}", icon),
        **({"device_class": device_class} if device_class else {}),
        "state_class": "measurement",
        "unit_of_measurement": unit,
        "suggested_display_precision": digits,
    }


def counter(name: str, expression: str, icon: str, unit: str | None = None) -> Component:
    """Make a sensor of what is counted since the service was started."""
    return {
        **sensor(name, f"{{{{ {expression} }}}}", icon),
        **({"unit_of_measurement": unit} if unit else {}),
        "state_class": "total_increasing",
    }


def enum(name: str, template: str, options: Sequence[str], icon: str) -> Component:
    """Make a sensor of a word; Home Assistant ignores those that are not among the options."""
    return {**sensor(name, template, icon), "device_class": "enum", "options": list(options)}


def on_or_off(name: str, expression: str, device_class: str) -> Component:
    """Make a binary sensor: on where the expression is true, unknown where it is None.

    Empty texts and lists are false.
    """
    return {
        "platform": "binary_sensor",
        "name": name,
        "device_class": device_class,
        "value_template": f"{{% set found = {expression} %}}"
        "{{ found if found is none else 'ON' if found else 'OFF' }}",
    }


def attributes(topic: str, **paths: str) -> Component:
    """Make the options that give a component attributes, each from a path in a message."""
    pairs = ", ".join(f"'{name}': {read(path)}" for name, path in paths.items())
    template = f"{{{{ {{{pairs}}} | tojson }}}}"
    return {"json_attributes_topic": topic, "json_attributes_template": template}


def diagnostic(component: Component) -> Component:
    """Have it shown on the device's own page only."""
    return {**component, "entity_category": "diagnostic"}


def removed(platform: str) -> Component:
    """Make what takes a component away that may have been announced before."""
    return {"platform": platform}
