"""The fleet as metrics of each of its nodes; there are none where the node is in no fleet."""

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_llm.protocol import NodeHealth

__all__ = ["FleetCollector"]


class FleetCollector(Collector):
    """Tells how the fleet is, as a node sees it."""

    def __init__(self, report: Callable[[], NodeHealth]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """Yield what is known."""
        if (fleet := self._report().fleet) is None:
            return
        what = "1 if the node hears the fleet's servers"
        yield GaugeMetricFamily("edge_llm_fleet_joined", what, float(fleet.joined))
        what = "Requests of the fleet that this node has in hand"
        yield GaugeMetricFamily("edge_llm_fleet_held", what, fleet.held)
        if not fleet.joined:  # what it knew of the others may be wrong by now
            return
        what = "Requests in the fleet that no node has in hand; each node tells the same"
        yield GaugeMetricFamily("edge_llm_fleet_waiting", what, fleet.waiting)
        what = "How long the oldest of those has waited; 0 if none waits"
        yield GaugeMetricFamily("edge_llm_fleet_oldest_seconds", what, fleet.oldest_s or 0.0)
