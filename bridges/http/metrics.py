"""``GET /metrics`` for Prometheus: what the engine did for MQTT and HTTP alike.

Where this bridge stands in front of another machine's node, there is no engine here to tell of,
and only the requests over HTTP and the process itself are counted.
"""

from collections.abc import Callable, Iterator
from typing import get_args

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bridges.http.device_metrics import DeviceCollector
from bridges.http.fleet_metrics import FleetCollector
from edge_llm import __version__
from edge_llm.device import DeviceMonitor
from edge_llm.engine import Ended, Engine, EngineState, EngineStats
from edge_llm.protocol import NodeHealth

__all__ = ["METRICS", "Metrics", "routes"]

routes = web.RouteTableDef()

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
STATES = get_args(EngineState)


class Metrics:
    """The metrics of one node.

    Args:
        engine: whose state is told.
        stats: what it counts; none where the engine is elsewhere.
        node: its name.
        monitor: has the readings of the device; none where that is elsewhere.
        report: says how the node is, if it is here.
    """

    def __init__(
        self,
        engine: Engine,
        stats: EngineStats | None,
        node: str,
        monitor: DeviceMonitor | None = None,
        report: Callable[[], NodeHealth] | None = None,
    ) -> None:
        self._registry = registry = CollectorRegistry()
        self._http = Counter(
            "edge_llm_http_requests",
            "Requests over HTTP, by route and status",
            ("method", "route", "status"),
            registry=registry,
        )
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(_State(engine, stats, node))
        if monitor:
            registry.register(DeviceCollector(monitor))
        if report:
            registry.register(FleetCollector(report))
        self._stats, self._note = stats, _Ends(registry).note
        if stats:
            stats.watchers.append(self._note)

    def close(self) -> None:
        """Count no more."""
        if self._stats:
            self._stats.watchers.remove(self._note)

    def count(self, request: web.Request, status: int) -> None:
        """Count a request over HTTP."""
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "unknown"
        self._http.labels(request.method, route, str(status)).inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count each request by the status of its answer; 499 is a client that went away."""
        status = 499
        try:
            response = await handler(request)
            status = response.status
        finally:
            self.count(request, status)
        return response


class _Ends:
    """What is observed once for each request of the engine, whichever way it came."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(name, what, registry=registry, buckets=buckets)

        self._requests = counter(
            "edge_llm_requests",
            "Requests by outcome: a finish reason, or the code of an error",
            ("outcome",),
        )
        self._prompt = counter("edge_llm_prompt_tokens", "Tokens of prompts")
        self._cached = counter("edge_llm_cached_tokens", "Those that were still in the KV cache")
        self._completion = counter("edge_llm_completion_tokens", "Tokens that were generated")
        self._queue = histogram("edge_llm_queue_seconds", "From a request to its turn")
        self._first = histogram("edge_llm_time_to_first_token_seconds", "To the first text")
        self._token = histogram(
            "edge_llm_time_per_token_seconds",
            "Between two tokens, mean of a request",
            TOKEN_SECONDS,
        )
        self._total = histogram("edge_llm_request_seconds", "From a request to its end")

    def note(self, ended: Ended) -> None:
        usage, timing = ended.usage, ended.timing
        self._requests.labels(ended.outcome).inc()
        self._prompt.inc(usage.prompt_tokens)
        self._cached.inc(usage.cached_tokens)
        self._completion.inc(usage.completion_tokens)
        self._queue.observe(timing.queue_s)
        self._total.observe(timing.total_s)
        if timing.ttft_s is not None:
            self._first.observe(timing.ttft_s)
        if timing.tokens_per_s:
            self._token.observe(1 / timing.tokens_per_s)


class _State(Collector):
    """What is read when Prometheus asks."""

    def __init__(self, engine: Engine, stats: EngineStats | None, node: str) -> None:
        self._engine, self._stats, self._node = engine, stats, node

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "edge_llm_info", "Always 1", labels=("node", "version", "model", "runtime")
        )
        for model in self._engine.models:
            info.add_metric((self._node, __version__, model.id, model.runtime or ""), 1)
        yield info
        state = GaugeMetricFamily(
            "edge_llm_engine_state", "1 for the state that the engine is in", labels=("state",)
        )
        for name in STATES:
            state.add_metric((name,), float(name == self._engine.state))
        yield state
        if stats := self._stats:
            yield GaugeMetricFamily(
                "edge_llm_requests_waiting", "Requests in the queue", stats.num_waiting
            )
            yield GaugeMetricFamily(
                "edge_llm_requests_running", "Requests that had their turn", stats.num_running
            )
            yield CounterMetricFamily(
                "edge_llm_worker_restarts", "Worker processes replaced", stats.num_restarts
            )
            yield CounterMetricFamily(
                "edge_llm_recoveries", "Times ready again after a failure", stats.num_recoveries
            )
            yield GaugeMetricFamily(
                "edge_llm_attention", "1 if a person is needed", float(bool(stats.attention))
            )


METRICS = web.AppKey("metrics", Metrics)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Give the metrics."""
    body = request.app[METRICS].text()
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
