"""The status page in a browser: what it shows, how it gets there, and for whom."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from bridges.http.auth import hash_key
from edge_llm.errors import DeviceLostError
from edge_llm.node import open_node
from edge_llm.settings import Settings
from tests.brokers import Mosquitto
from tests.browser import Look, barriers, heap, look_like, open_browser, open_tab
from tests.clients import RawClient, eventually
from tests.page_stage import PageStage, ask, open_page_stage
from tests.programs import free_port
from tests.prompted_engine import PromptedEngine

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = {"name": "lamp", "sha256": hash_key("sk-lamp")}
HOSTILE = (
    '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
    "</td></table>\u202egnorw\u202c &amp; javascript:alert(1)"
)
LOOKS: tuple[Look, ...] = (("desk", "light"), ("phone", "dark"))
FIRST_PAINT_MS = 300


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser


async def shows(page: Page, word: str) -> None:
    """Wait until the big word is this one."""
    await expect(page.locator("#word span")).to_have_text(word)


async def figure(page: Page, name: str) -> str:
    return await page.locator("#figures div", has=page.get_by_text(name, exact=True)).inner_text()


async def test_it_is_there_at_once_and_says_how_the_node_is(browser: Browser) -> None:
    async with open_page_stage() as stage, open_tab(browser) as page:
        stage.live_through(lambda minutes: 50 + minutes // 1 % 7)
        stage.read(52)
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        await page.goto(stage.url)
        await shows(page, "Idle")
        assert await page.title() == "stage-left · edge-llm"
        assert "52 °C" in await figure(page, "Card")
        assert "3.0 GiB" in await figure(page, "CMM")
        await expect(page.locator("#curves")).to_contain_text(
            "52 °C now, 50 to 56 in the last hour"
        )
        await page.get_by_text("Readings as a table").click()
        rows = page.locator("#readings tbody tr")
        await expect(rows.first).to_be_visible()
        assert await rows.count() > 20
        assert (await rows.first.inner_text()).split("\t")[1:] == ["52", "3100", "47", "2592"]
        assert await page.locator("svg .mark").count() == 4
        assert {url.startswith(stage.url) for url in requested} == {True}
        paint = await page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        print(f"\nfirst contentful paint: {paint:.0f} ms (bar {FIRST_PAINT_MS} ms)")


async def test_it_follows_a_request_over_mqtt(browser: Browser, mosquitto: Mosquitto) -> None:
    paced = {"text": "The sea does not answer letters.", "ttft_s": 0.1, "tokens_per_s": 3}
    settings = Settings.model_validate(
        {
            "node": "pi5",
            "mqtt": {"port": mosquitto.port},
            "http": {"port": 0, "page": {"texts": True}},
            "engine": {"kind": "paced", "paced": paced},
        }
    )
    async with (
        open_node(settings) as node,
        RawClient(mosquitto.port) as client,
        open_tab(browser) as page,
    ):
        assert node.http
        await client.subscribe("llm/response/#")
        await page.goto(f"{node.http.url}/")
        await shows(page, "Idle")
        node.engine.hold("paused")
        client.publish("llm/request/button7", "Do they write to the sea?")
        client.publish("llm/request/button8", "And the moon?")
        waiting = page.locator("#waiting li")
        await expect(waiting).to_have_count(2)
        await expect(waiting.first).to_contain_text("MQTT button7 · place 1")
        await shows(page, "Paused")
        node.engine.release("paused")
        await shows(page, "Generating")
        current = page.locator("#current")
        await expect(current).to_contain_text("MQTT button")
        await expect(current.locator(".text")).to_have_text(re.compile(r"^The sea does"))
        await client.wait_for("llm/response/button8")
        await shows(page, "Idle")
        row = page.locator("#recent tbody tr", has_text="button7")
        await expect(row).to_contain_text("stop")
        await expect(page.locator("#recent")).to_contain_text("Do they write to the sea?")
        assert "2" in await figure(page, "Requests")


async def test_it_comes_back_when_the_node_does(browser: Browser) -> None:
    port = free_port()
    async with open_tab(browser) as page:
        async with open_page_stage(port=port) as stage:
            await ask(stage.url, "say hi")
            await page.goto(stage.url)
            await shows(page, "Idle")
        banner = page.locator("#banner")
        await expect(banner).to_have_text(
            re.compile(r"No connection since \d\d:\d\d:\d\d\. Trying again in \d+ s\.")
        )
        await shows(page, "No connection")
        await expect(page.locator("#sentence")).to_contain_text("Below is how it was")
        assert await page.locator("#recent tbody tr").count() == 1
        async with open_page_stage(port=port):
            await shows(page, "Idle")  # by itself
            await expect(banner).to_be_hidden()
            await expect(page.locator("#recent tbody tr")).to_have_count(0)  # a new life
        await shows(page, "No connection")
        await expect(banner).to_contain_text(re.compile(r"in [2-9] s"))  # so that we are first
        async with open_page_stage(port=port):
            await page.get_by_role("button", name="Try now").click()
            await shows(page, "Idle")


async def test_it_asks_for_the_key_and_keeps_it_as_long_as_it_may(browser: Browser) -> None:
    async with open_page_stage(key=[KEY]) as stage, open_tab(browser) as page:
        await page.goto(stage.url)
        field = page.get_by_label("API key")
        await expect(field).to_be_focused()
        await expect(page.locator("#shown")).to_be_hidden()
        await field.fill("sk-wrong")
        await field.press("Enter")
        await expect(page.locator("#key-wrong")).to_contain_text("not one of this node's")
        await field.fill("sk-lamp")
        await page.get_by_role("button", name="Open").click()
        await shows(page, "Idle")
        await page.reload()
        await shows(page, "Idle")
        other = await page.context.new_page()  # another tab does not have it
        await other.goto(stage.url)
        await expect(other.locator("#key")).to_be_visible()
        await other.get_by_label("API key").fill("sk-lamp")
        await other.get_by_label("Keep it on this device").check()
        await other.get_by_role("button", name="Open").click()
        await shows(other, "Idle")
        third = await page.context.new_page()
        await third.goto(stage.url)
        await shows(third, "Idle")
        await third.get_by_label("Prompt").fill("say the key works here, too")
        await third.get_by_role("button", name="Ask").click()
        await expect(third.locator("#answer")).to_have_text("the key works here, too")
        await third.get_by_role("button", name="Forget the key").click()
        await expect(third.locator("#key")).to_be_visible()


@pytest.mark.parametrize("texts", [False, True])
async def test_texts_are_texts_and_shown_only_if_that_is_switched_on(
    browser: Browser, texts: bool
) -> None:
    engine = PromptedEngine()
    async with (
        open_page_stage(engine, page={"texts": texts}) as stage,
        open_tab(browser) as page,
    ):
        await page.goto(stage.url)
        await ask(stage.url, f"say {HOSTILE}")
        running = asyncio.create_task(ask(stage.url, f"hold {HOSTILE}"))
        await shows(page, "Generating")
        if texts:
            await expect(page.locator("#recent .asked")).to_have_text(f"say {HOSTILE}")
            await expect(page.locator("#recent .told")).to_have_text(HOSTILE)
            await expect(page.locator("#current .text")).to_have_text("hold")
        else:
            await expect(page.locator("#recent tbody tr")).to_have_count(1)
            await expect(page.locator("#current .text")).to_be_hidden()
            assert "hacked" not in await page.content()
        stage.stats.attention = HOSTILE
        stage.stats.note_fault(DeviceLostError(HOSTILE))
        stage.stats.note_step("restart", HOSTILE, 1)
        await expect(page.locator("#attention")).to_have_text(HOSTILE)
        await expect(page.locator("#events")).to_contain_text(HOSTILE)
        engine.release.set()
        await running
        await page.get_by_label("Prompt").fill(f"say {HOSTILE}")
        await page.get_by_role("button", name="Ask").click()
        await expect(page.locator("#answer")).to_have_text(HOSTILE)
        assert await page.evaluate("[window.hacked, document.images.length]") == [None, 0]


async def test_a_preset_can_be_tried_and_stopped(browser: Browser) -> None:
    async with open_page_stage() as stage, open_tab(browser) as page:
        await page.goto(stage.url)
        await expect(page.get_by_label("Preset")).to_have_value("oracle")
        send, cancel = (page.get_by_role("button", name=name) for name in ("Ask", "Cancel"))
        await expect(cancel).to_be_disabled()
        await send.click()  # what the preset asks
        await expect(page.locator("#answer")).to_have_text("What do you see?")
        await expect(page.locator("#answer-about")).to_contain_text("4 tokens")
        await page.get_by_label("Preset").select_option("robot")
        await page.get_by_label("Prompt").fill("hold the line")
        await send.click()
        await expect(page.locator("#answer")).to_have_text("hold")
        await expect(send).to_be_disabled()
        await cancel.click()
        await expect(page.locator("#answer-about")).to_have_text("Cancelled.")
        await eventually(lambda: not stage.engine.num_running)
        await expect(send).to_be_enabled()
        await page.get_by_label("Prompt").fill("")
        await send.click()
        await expect(page.locator("#answer-about")).to_contain_text("prompt is empty")
        await page.get_by_label("Prompt").fill("fail")
        await send.click()
        await expect(page.locator("#answer-about")).to_contain_text("told to fail")


async def test_it_can_be_used_with_the_keyboard_alone(browser: Browser) -> None:
    async with open_page_stage() as stage, open_tab(browser) as page:
        for number in range(12):
            await ask(stage.url, f"say {number}")
        stage.read()
        await page.goto(stage.url)
        await shows(page, "Idle")
        focused = "() => document.activeElement.id || document.activeElement.textContent"
        stops = []
        for _ in range(12):
            await page.keyboard.press("Tab")
            stops.append(await page.evaluate(focused))
            if stops[-1] == "more":
                break
        assert stops == [
            "To the status", "Readings as a table", "preset", "prompt", "send", "more"
        ]  # fmt: skip
        await page.keyboard.press("Enter")
        await expect(page.locator("#recent tbody tr")).to_have_count(12)
        await expect(page.locator("#more")).to_have_attribute("aria-expanded", "true")
        await page.locator("#prompt").focus()
        await page.keyboard.type("hold by hand")
        await page.keyboard.press("Control+Enter")
        await expect(page.locator("#answer")).to_have_text("hold")
        await page.keyboard.press("Tab")
        assert await page.evaluate(focused) == "cancel"
        await page.keyboard.press("Space")
        await expect(page.locator("#answer-about")).to_have_text("Cancelled.")
        assert await page.evaluate(focused) == "send"  # not lost with the button


async def test_a_screen_reader_hears_what_changes_and_no_tokens(browser: Browser) -> None:
    async with open_tab(browser) as page, AsyncExitStack() as life:
        stage = await life.enter_async_context(open_page_stage())
        await page.goto(stage.url)
        await shows(page, "Idle")
        await page.evaluate(
            """() => {
              window.heard = [];
              new MutationObserver(() => heard.push(spoken.textContent))
                .observe(spoken, { childList: true, characterData: true, subtree: true });
            }"""
        )
        live = "[...document.querySelectorAll('[aria-live], [role=status], [role=alert]')]"
        ids = await page.evaluate(f"() => {live}.map((node) => node.id)")
        assert sorted(ids) == ["key-wrong", "spoken"]
        stage.engine.step_s = 0.005
        await ask(stage.url, "say" + " word" * 60)
        await expect(page.locator("#recent tbody tr")).to_have_count(1)
        assert await page.evaluate("heard") == []
        stage.engine.state = stage.engine.activity = "recovering"
        stage.stats.note_step("restart", "lost", 1)
        await expect(page.locator("#spoken")).to_contain_text("Recovering. Engine or card failed")
        assert len(await page.evaluate("heard")) == 1
        await life.aclose()
        await expect(page.locator("#banner")).to_contain_text(re.compile(r"in [1-3] s"))
        await expect(page.locator("#spoken")).to_have_text("No connection.")
        first = await page.locator("#again").inner_text()
        await expect(page.locator("#again")).not_to_have_text(first)  # it counts, in silence
        assert len(await page.evaluate("heard")) == 2


async def test_a_page_that_nobody_looks_at_gives_its_place_away(browser: Browser) -> None:
    async with open_page_stage() as stage, open_tab(browser) as page:
        await page.clock.install()
        await page.goto(stage.url)
        await shows(page, "Idle")
        hide = """(hidden) => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
        await page.evaluate(hide, True)
        await page.clock.fast_forward(30_000)
        assert stage.page.feed.num_readers == 1
        await page.clock.fast_forward(31_000)
        await eventually(lambda: stage.page.feed.num_readers == 0)
        await ask(stage.url, "say something meanwhile")
        await page.evaluate(hide, False)
        await expect(page.locator("#recent tbody tr")).to_have_count(1)
        assert stage.page.feed.num_readers == 1
        await expect(page.locator("#banner")).to_be_hidden()


async def empty(stage: PageStage) -> None:
    """A node that was just started."""


async def busy(stage: PageStage) -> None:
    stage.live_through(lambda minutes: 50 + minutes % 9)
    for number in range(11):
        await ask(stage.url, "fail" if number == 5 else f"say {number} is a number")
    stage.held = [asyncio.create_task(ask(stage.url, "hold it")) for _ in range(2)]
    await eventually(lambda: stage.stats.num_waiting)
    stage.page.requests.in_hand[12].said = "The sea does not answer letters."


async def hot(stage: PageStage) -> None:
    stage.live_through(lambda minutes: 60 + minutes / 3)
    stage.changes = {"heat": "critical"}
    stage.queue.hold("cooling")
    stage.read(82)


async def recovering(stage: PageStage) -> None:
    stage.stats.note_fault(DeviceLostError("the card did not answer within 60 s"))
    stage.engine.state = stage.engine.activity = "recovering"
    stage.stats.attention = "Look at the card: three resets did not help."
    stage.stats.note_step("reboot_card", "the card did not answer", 3)
    stage.read(None)


@pytest.mark.parametrize(
    ("prepare", "word"),
    [(empty, "Idle"), (busy, "Generating"), (hot, "Cooling"), (recovering, "Recovering")],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_nobody_is_kept_out(
    browser: Browser, prepare: Callable[[PageStage], Awaitable[None]], word: str
) -> None:
    async with open_tab(browser) as page:
        async with open_page_stage(page={"texts": True}) as stage:
            await prepare(stage)
            await page.goto(stage.url)
            await shows(page, word)
            for look in LOOKS:
                await look_like(page, look)
                assert await barriers(page) == [], look
                width = await page.evaluate("document.documentElement.scrollWidth")
                assert width <= await page.evaluate("innerWidth"), look
            stage.engine.release.set()
            await asyncio.gather(*stage.held)
        if prepare is empty:
            await shows(page, "No connection")
            assert await barriers(page) == []


async def test_nobody_is_kept_out_by_the_key(browser: Browser) -> None:
    async with open_page_stage(key=[KEY]) as stage, open_tab(browser) as page:
        await page.goto(stage.url)
        await page.get_by_label("API key").fill("sk-wrong")
        await page.keyboard.press("Enter")
        await expect(page.locator("#key-wrong")).to_contain_text("not one of")
        for look in LOOKS:
            await look_like(page, look)
            assert await barriers(page) == [], look


@pytest.mark.parametrize(
    "num_requests", [150, pytest.param(3000, marks=pytest.mark.soak)], ids=["short", "hour"]
)
async def test_an_hour_leaves_nothing_behind(browser: Browser, num_requests: int) -> None:
    """An hour passes on the node's clock while its requests run as fast as they can."""
    async with open_page_stage(page={"texts": True}) as stage, open_tab(browser) as page:
        await page.goto(stage.url)
        sizes = []

        async def live(count: int) -> None:
            for number in range(count):
                stage.pass_time(3600 / num_requests)
                if number % 4 == 0:
                    stage.read(45 + number % 30)
                await ask(stage.url, "fail" if number % 10 == 9 else f"say {number}" + " word" * 20)
                if number % 25 == 0:  # so that the page sees some of it as it happens
                    await asyncio.sleep(0.12)

        for part in range(3):
            # The first one fills what is bounded: 50 requests, an hour of readings.
            await live(num_requests // 3)
            await expect(page.locator("#recent tbody tr").first).to_contain_text(
                str((part + 1) * (num_requests // 3))
            )
            sizes.append(await heap(page))
        kept = [len(stage.page.history.samples), len(stage.page.requests.ended)]
        told = ", ".join(f"{size / 1024:.0f} KiB and {nodes} nodes" for size, nodes in sizes)
        print(f"\n{num_requests} requests in an hour: heap {told}; the node keeps {kept}")
        assert await page.evaluate("document.querySelectorAll('#recent tbody tr').length") == 20
        assert kept[0] <= 361
        assert kept[1] == 50
        assert stage.page.requests.in_hand == {}
        (_, _), (middle, middle_nodes), (end, end_nodes) = sizes
        assert end <= middle * 1.1 + 100_000
        assert end_nodes <= middle_nodes * 1.1 + 200
