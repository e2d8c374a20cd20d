"""The state as a screen: nodes, requests in hand and latest replies, each in its share of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from edge_llm.watch.seen import NodeSeen, ReplySeen, RequestSeen
from edge_llm.watch.state import State
from edge_llm.watch.text import fit, fit_end, one_line

__all__ = ["Screen"]

WIDE = 100  # columns from which there is more room for names
REST = 0  # the width of a column that takes what the others leave
COLOURS = {
    **dict.fromkeys(("online", "speaking", "started"), "green"),
    **dict.fromkeys(("offline", "failed", "recovering", "cooling"), "red"),
}

_Cell = tuple[str, str]  # text and style
_Widths = Sequence[int]


@dataclass(frozen=True, slots=True)
class Screen:
    """Draws a state; no line has more columns than there are, nor the whole more lines.

    Args:
        broker: where the messages come from.
        texts: show what is asked and answered, and not only how long it is.
    """

    broker: str
    texts: bool = True

    def draw(
        self, state: State, now: float, width: int, height: int, trouble: str | None = None
    ) -> Text:
        """Return exactly ``height`` lines of ``width`` columns.

        Args:
            state: what to show.
            now: by the clock that the state was fed with.
            width: columns.
            height: lines.
            trouble: why there is no connection, if there is none.
        """
        nodes = sorted(state.nodes.values(), key=lambda node: node.name)
        num_nodes, num_requests, num_replies = _share(height - 1, len(nodes))
        names = 16 if width < WIDE else 28
        widths = (names, 6, 16, REST)
        lines = [
            self._header(state, now, width, trouble),
            *_table(
                ("NODE", "UP", "ACTIVITY", "STATUS", "CARD", "VERSION", "MODELS"),
                [_node_cells(node, now) for node in nodes] or [[("none yet", "dim")]],
                (names, 6, 16, 8, 12, 8, REST),
                (width, num_nodes),
            ),
            *_table(
                ("REQUEST", "AGE", "STATE", "TEXT"),
                self._request_rows(state, now, _rest(widths, width)),
                widths,
                (width, num_requests),
            ),
            *_table(
                ("REPLY", "TOOK", "END", "TEXT"),
                [self._reply_cells(reply) for reply in reversed(state.replies)],
                widths,
                (width, num_replies),
            ),
        ]
        whole = Text("\n", end="", no_wrap=True, overflow="crop").join(lines[:height])
        whole.no_wrap, whole.overflow = True, "crop"
        return whole

    def _header(self, state: State, now: float, width: int, trouble: str | None) -> Text:
        in_hand = f"{len(state.requests)} in hand, {state.num_waiting} waiting"
        if depth := state.depth(now):
            oldest = "" if depth.oldest_s is None else f" for {_short_time(depth.oldest_s)}"
            in_hand = f"fleet: {depth.held} in hand, {depth.waiting} waiting{oldest}"
        ended = f"{state.num_answered} answered, {state.num_failed} failed"
        if trouble is None:
            cells = [(f"edge-llm at {self.broker}", "bold"), (in_hand, "bold"), (ended, "")]
            return _row(cells, (REST, len(in_hand), len(ended)), width)
        return _row([(f"{self.broker}: {trouble}", "bold red")], (REST,), width)

    def _request_rows(self, state: State, now: float, rest: int) -> list[list[_Cell]]:
        return [self._request_cells(seen, now, rest) for seen in state.requests.values()]

    def _request_cells(self, seen: RequestSeen, now: float, rest: int) -> list[_Cell]:
        age = f"{'>' if seen.is_older else ''}{_short_time(now - seen.asked_at)}"
        if not self.texts:
            text = f"{seen.num_chars} characters" if seen.num_chars else ""
        elif seen.text:  # its end, as that is what changes
            text = fit_end(one_line(seen.text), rest)
        else:
            text = seen.prompt
        style = COLOURS.get(seen.state, "yellow")
        return [(seen.id, ""), (age, ""), (seen.state, style), (text, "" if seen.text else "dim")]

    def _reply_cells(self, reply: ReplySeen) -> list[_Cell]:
        took = "" if reply.took_s is None else _short_time(reply.took_s, digits=1)
        style = "red" if reply.is_error else ""
        text = reply.text if self.texts or reply.is_error else f"{reply.num_chars} characters"
        return [(reply.id, style), (took, style), (reply.end, style), (text, style)]


def _node_cells(node: NodeSeen, now: float) -> list[_Cell]:
    up = f"{'>' if node.is_older else ''}{_short_time(now - node.since)}"
    return [
        (node.name, ""),
        (up if node.status == "online" else "", ""),
        (_activity(node), COLOURS.get(node.activity, "")),
        (node.status, COLOURS.get(node.status, "yellow")),
        (node.card, "red" if " " in node.card.removesuffix(" C") else ""),
        (node.version, ""),
        (node.attention or node.models, "bold red" if node.attention else ""),
    ]


def _activity(node: NodeSeen) -> str:
    """Say what a node does, and if it is in a fleet, with how many of its requests."""
    fleet = node.fleet
    if fleet is None or node.status != "online":
        return node.activity
    if not fleet.joined:
        return "not in the fleet"
    return f"{node.activity} ({fleet.held})" if fleet.held else node.activity


def _share(height: int, num_nodes: int) -> tuple[int, int, int]:
    """Divide the lines; requests and replies keep theirs, so that nothing jumps."""
    nodes = 1 + max(1, min(num_nodes, height // 4))
    requests = max(0, height - nodes) // 2
    return nodes, requests, max(0, height - nodes - requests)


def _table(
    titles: Sequence[str], rows: Sequence[list[_Cell]], widths: _Widths, size: tuple[int, int]
) -> list[Text]:
    """Return exactly as many lines as there are, the last one saying what had no room."""
    width, height = size
    if height <= 0:
        return []
    shown = list(rows) if len(rows) < height else list(rows[: max(0, height - 2)])
    lines = [_row([(title, "reverse") for title in titles], widths, width, "reverse")]
    lines += [_row(cells, widths, width) for cells in shown]
    if len(shown) < len(rows):
        lines.append(Text(fit(f"… {len(rows) - len(shown)} more", width), "dim"))
    lines += [Text(" " * width)] * (height - len(lines))
    return lines[:height]


def _row(cells: Sequence[_Cell], widths: _Widths, width: int, gap: str = "") -> Text:
    """Return cells side by side, in exactly so many columns."""
    line = Text()
    for (text, style), column in zip(cells, widths, strict=False):  # cells may be missing
        if line:
            line.append(" ", gap)
        line.append(fit(text, _rest(widths, width) if column == REST else column), style)
    line.truncate(width, pad=True)
    return line


def _rest(widths: _Widths, width: int) -> int:
    return max(0, width - sum(widths) - (len(widths) - 1))


def _short_time(seconds: float, digits: int = 0) -> str:
    """Say a time in at most five columns: ``3.2s``, ``42s``, ``12:03``, ``3h20``, ``12d``."""
    if seconds < 60:
        return f"{seconds:.{digits}f}s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours < 1:
        return f"{minutes}:{int(seconds % 60):02}"
    return f"{hours}h{minutes % 60:02}" if hours < 24 else f"{hours // 24}d"
