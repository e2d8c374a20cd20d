"""Many nodes behind one address: a node's part in a fleet, on NATS JetStream."""

from edge_llm.fleet.names import FleetNames, Ticket
from edge_llm.fleet.source import Desk, FleetSource

__all__ = ["Desk", "FleetNames", "FleetSource", "Ticket"]
