"""Many nodes behind one address: a node's part in a fleet, on NATS JetStream."""

from edge_llm.fleet.desk import Desk, Sorted
from edge_llm.fleet.names import FleetNames
from edge_llm.fleet.source import FleetSource

__all__ = ["Desk", "FleetNames", "FleetSource", "Sorted"]
