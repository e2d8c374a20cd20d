"""The vendor's ``axcl-smi``: run with care, and what it prints read."""

from edge_llm.device.axcl_smi.info import CardInfo, parse_info
from edge_llm.device.axcl_smi.table import parse_table
from edge_llm.device.axcl_smi.text import errors_in, parse_reboot, parse_version
from edge_llm.device.axcl_smi.tool import AxclSmi, Unreadable, find_axcl_smi

__all__ = [
    "AxclSmi",
    "CardInfo",
    "Unreadable",
    "errors_in",
    "find_axcl_smi",
    "parse_info",
    "parse_reboot",
    "parse_table",
    "parse_version",
]
