"""``edge-llm doctor``: what is wrong with an installation, and the cure of each thing.

A check looks at one subject and yields findings. All run at once, each until its own deadline: what
hangs is a finding like any other. Nothing is changed, and nothing secret is told.
"""

from edge_llm.doctor.case import Case
from edge_llm.doctor.checks import diagnose
from edge_llm.doctor.configuration import open_case
from edge_llm.doctor.finding import Finding
from edge_llm.doctor.machine import Machine
from edge_llm.doctor.report import Report, summary, to_json

__all__ = ["Case", "Finding", "Machine", "Report", "diagnose", "open_case", "summary", "to_json"]
