"""``python -m edge_llm.systemd --wait 60``: what the unit runs when the core has ended."""

import argparse

from edge_llm.systemd.leftovers import end_leftovers

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m edge_llm.systemd", description=__doc__)
    parser.add_argument("--wait", type=float, default=60.0, metavar="S", help="before it kills")
    end_leftovers(parser.parse_args().wait)
