"""Makes docs/images/terminal.svg: what a terminal shows when these commands are typed.

python -m tests.docs.capture
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.docs.blocks import ROOT
from tests.docs.clone import environment_of, make_clone
from tests.docs.network import private_network
from tests.docs.node import open_node

COMMANDS = (
    "mosquitto_rr -t llm/request/me -e llm/response/me -m 'Tell me a poem about the sea.'",
    "edge-llm ask 'What is 3 plus 4?'",
    "mosquitto_sub -t 'llm/node/+/activity' -C 1",
    "mosquitto_sub -t 'llm/node/+/health' -C 1 | jq -c '{state, queue}'",
    'curl -s localhost:8000/api/generate -d \'{"prompt": "Who are you?", "stream": false}\' '
    "| jq -r .response",
)
FILE = ROOT / "docs" / "images" / "terminal.svg"
WIDTH = 98
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<title>What a terminal shows</title>
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px ui-monospace, monospace; }}
.{unique_id}-title {{ font: bold 18px sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""
"""rich's own loads a font from the network."""


def main() -> int:
    """Type the commands beside a real node, and draw what came back."""
    with tempfile.TemporaryDirectory() as folder, private_network() as network:
        clone = make_clone(Path(folder))
        environment = environment_of(clone)
        with open_node(network, clone, environment), Path(folder, "null").open("w") as null:
            console = Console(record=True, width=WIDTH, file=null)
            for command in COMMANDS:
                console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
                said = subprocess.run(
                    [*network.enter, "bash", "-c", command],
                    cwd=clone,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=True,
                )
                console.print(Text(said.stdout.rstrip("\n")))
            console.print()  # or the last line is cut off
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(console.export_svg(title="edge-llm", code_format=SVG, unique_id="t"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
