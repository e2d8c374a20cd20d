"""How fast a model is on this very machine, saved, compared, and beside what was published."""

from edge_llm.bench.compare import Change, Comparison, compare
from edge_llm.bench.files import check_can_save, load_report, save_report
from edge_llm.bench.plan import FULL, SHORT, Plan
from edge_llm.bench.report import Report
from edge_llm.bench.run import run_bench
from edge_llm.bench.table import draw

__all__ = [
    "FULL",
    "SHORT",
    "Change",
    "Comparison",
    "Plan",
    "Report",
    "check_can_save",
    "compare",
    "draw",
    "load_report",
    "run_bench",
    "save_report",
]
