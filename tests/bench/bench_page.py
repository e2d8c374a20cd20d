"""What the status page costs: its bytes, its first paint, and what an open page takes from a node.

``python -m tests.bench.bench_page`` prints a table and JSON. The bars: 60,000 bytes, and 300 ms to
the first paint. A token may cost 0.03 ms in all, so what the page adds to it must be a small part.
"""

import argparse
import asyncio
import json
import logging
import platform
import statistics
import time
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import structlog

from bridges.http.page.files import FILES
from edge_llm.protocol import ChatRequest, Delta
from tests.browser import open_browser, open_tab
from tests.page_stage import EVENTS, ask, open_page_stage

MAX_BYTES = 60_000
PAINT_BAR_MS = 300
NUM_TOKENS = 20_000
STREAMS = (0, 1, 16)

Row = dict[str, Any]


def make_row(what: str, value: float, unit: str, bar: float | None = None) -> Row:
    return {"what": what, "value": round(value, 3), "unit": unit, "bar": bar}


async def paint(count: int) -> Row:
    """Open the page in new tabs; the browser says when it painted first."""
    times = []
    async with open_browser() as browser, open_page_stage() as stage:
        stage.live_through(lambda minutes: 50 + minutes % 9)
        for _ in range(count):
            async with open_tab(browser) as page:
                await page.goto(stage.url)
                await page.wait_for_selector("#word span:not(:empty)")
                times.append(
                    await page.evaluate(
                        "performance.getEntriesByName('first-contentful-paint')[0].startTime"
                    )
                )
    return make_row("first paint, median", statistics.median(times), "ms", PAINT_BAR_MS)


async def listening(texts: bool) -> Row:
    """Time what the page does at each token."""
    async with open_page_stage(page={"texts": texts}) as stage:
        request = ChatRequest(prompt="x")
        number = stage.stats.take(request)
        delta = Delta(text=" word", token_ids=(7,))
        begin = time.perf_counter()
        for _ in range(NUM_TOKENS):
            stage.page.requests.hear(number, request, delta)
        took_us = (time.perf_counter() - begin) / NUM_TOKENS * 1e6
    return make_row(f"at a token, texts {'on' if texts else 'off'}", took_us, "us")


async def open_pages(num_streams: int) -> Row:
    """Time an answer of a thousand tokens a second while pages are open."""
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(open_page_stage(page={"texts": True}))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        readers = []
        for _ in range(num_streams):
            response = await stack.enter_async_context(
                http.get(f"{stage.url}status", headers=EVENTS)
            )
            readers.append(asyncio.create_task(_read(response)))
        stage.engine.step_s = 0.001
        times = []
        for _ in range(5):
            begin, cpu = time.perf_counter(), time.process_time()
            await ask(stage.url, "say" + " word" * 1000)
            times.append((time.perf_counter() - begin, time.process_time() - cpu))
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    share = statistics.median(cpu / took for took, cpu in times) * 100
    return make_row(f"CPU of node and readers, {num_streams} pages open", share, "%")


async def _read(response: aiohttp.ClientResponse) -> None:
    async for _ in response.content.iter_any():
        pass


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10, help="tabs that are opened")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    rows = [
        make_row("all files", sum(len(file.body) for file in FILES.values()), "bytes", MAX_BYTES),
        await paint(args.count),
        *[await listening(texts) for texts in (False, True)],
        *[await open_pages(num_streams) for num_streams in STREAMS],
    ]
    for row in rows:
        bar = "" if row["bar"] is None else f"  (bar {row['bar']})"
        print(f"{row['what']:<45}{row['value']:>10} {row['unit']}{bar}")
    print(json.dumps({"machine": platform.platform(), "rows": rows}))


if __name__ == "__main__":
    asyncio.run(main())
