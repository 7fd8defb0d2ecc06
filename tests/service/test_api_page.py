"""The page that shows our own interface: everything there is, and nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.service.app import create_app
from engine.service.security import Guard, Policy
from engine.service.settings import ServiceSettings
from tests.service.files_app import places_below
from tests.service.serving import served

CHROMIUM = Path("/usr/bin/chromium")
FILES = ("/v1/docs", "/v1/docs/page.css", "/v1/docs/page.js")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    places = places_below(folder)
    with served(Guard(create_app(ServiceSettings(places=places)), Policy())) as found:
        yield found


def test_the_page_is_shut_in(address: str) -> None:
    """Its policy lets it load from here alone and run no script that is written into it; none of its files names another host."""
    with httpx.Client(base_url=address, trust_env=False) as client:
        for path, kind in zip(FILES, ("text/html", "text/css", "text/javascript"), strict=True):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
            assert re.search(r"https?:|//[a-z]|@import|innerHTML|eval\(", answer.text) is None
            rules = answer.headers["content-security-policy"].split("; ")
            assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(rules)
            assert "unsafe" not in " ".join(rules)
        page = client.get("/v1/docs").text
        assert re.findall(r"<script(.*?)>(.*?)</script>", page) == [(' src="docs/page.js" defer', "")]
        assert client.get("/v1/docs/page.html").status_code == 404


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed; `make browser` installs it")
def test_a_browser_shows_every_operation(address: str) -> None:
    """Every method of every path and every schema is there, a request can be tried, and nobody else is asked for anything."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    described: dict[str, Any] = httpx.get(f"{address}/v1/openapi.json", trust_env=False).json()
    there = {(method, path) for path, item in described["paths"].items() for method in item}
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        asked: list[str] = []
        faults: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on(
            "console", lambda message: faults.append(message.text) if message.type in {"error", "warning"} else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{address}/v1/docs")
        page.locator("#operations[aria-busy=false]").wait_for()
        shown = page.evaluate(
            """[...document.querySelectorAll(".operation")].map(one =>
                [one.querySelector(".method").textContent, one.querySelector("summary code").textContent])"""
        )
        schemas = page.evaluate("[...document.querySelectorAll('#schemas > details')].map(one => one.id)")
        models = page.locator(".operation", has=page.locator("summary code", has_text=re.compile("^/v1/models$")))
        models.locator("summary").first.click()
        models.locator("summary", has_text="Try it").click()
        models.locator("button").click()
        models.locator("pre", has_text="checkpoints").wait_for()
        answer = models.locator("pre").text_content()
        browser.close()
    assert {tuple(one) for one in shown} == there
    assert schemas == [f"schema-{name}" for name in described["components"]["schemas"]]
    assert answer.startswith("200 OK\napplication/json")
    assert faults == []
    assert {url.removeprefix(address).partition("/")[0] for url in asked} <= {"", "data:,"}
