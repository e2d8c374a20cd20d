"""A browser: Debian's Chromium, driven by Playwright; and axe-core, which looks for barriers."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import Browser, Page, async_playwright

from tests.programs import require_npm, require_program

__all__ = ["Look", "barriers", "heap", "look_like", "open_browser", "open_tab", "shoot"]

AXE = ("axe-core", "4.14.1")
TIMEOUT_MS = 10_000
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZES = {"desk": (1280, 900), "phone": (360, 740)}

Look = tuple[Literal["desk", "phone"], Literal["light", "dark"]]


@asynccontextmanager
async def open_browser() -> AsyncGenerator[Browser]:
    """Run a browser without a screen."""
    program = require_program("chromium", "chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, headless=True, chromium_sandbox=False, args=FLAGS
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def open_tab(browser: Browser, look: Look = ("desk", "light")) -> AsyncGenerator[Page]:
    """Open a tab with a profile of its own; nothing may have gone wrong in it at the end.

    What went wrong is a script that failed, or something that the page's policy forbids.
    """
    size, scheme = look
    width, height = SIZES[size]
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        is_mobile=size == "phone",
        has_touch=size == "phone",
        reduced_motion="reduce",
        bypass_csp=False,
    )
    context.set_default_timeout(TIMEOUT_MS)
    troubles: list[str] = []
    try:
        page = await context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "console",
            lambda said: (
                troubles.append(said.text)
                if said.type == "error" and "Failed to load resource" not in said.text
                else None
            ),
        )
        yield page
        assert troubles == []
    finally:
        await context.close()


async def look_like(page: Page, look: Look) -> None:
    """Have a tab look as on this screen."""
    size, scheme = look
    width, height = SIZES[size]
    await page.set_viewport_size({"width": width, "height": height})
    await page.emulate_media(color_scheme=scheme)


async def barriers(page: Page) -> list[str]:
    """Return what axe-core finds that keeps people out, by all of its rules."""
    script = (require_npm(*AXE) / "axe.min.js").read_text()
    if not await page.evaluate("() => 'axe' in window"):
        await page.evaluate(f"() => {{ {script}\n }}")  # by the debugger, which no policy stops
    found: dict[str, Any] = await page.evaluate("() => axe.run()")
    return [
        f"{violation['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


async def heap(page: Page) -> tuple[int, int]:
    """Return the bytes of the page's objects, after a collection, and the number of its nodes."""
    session = await page.context.new_cdp_session(page)
    try:
        for _ in range(2):  # what the first one finalizes the second one frees
            await session.send("HeapProfiler.collectGarbage")
        usage = await session.send("Runtime.getHeapUsage")
        counters = await session.send("Memory.getDOMCounters")
        return int(usage["usedSize"]), int(counters["nodes"])
    finally:
        await session.detach()


async def shoot(page: Page, path: Path) -> None:
    """Take a picture of the whole page."""
    await page.screenshot(path=path, full_page=True)
