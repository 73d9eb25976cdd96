"""MLflow's own pages, in a real browser, show a sweep by its factors: the table of runs, the comparison, a run."""

import asyncio
import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.grid.read import read_space
from orchestrator.plan.plan import make_plan, write_plan
from orchestrator.tracking.publish import publish
from orchestrator.tracking.runs import environment_tags
from orchestrator.tracking.tracker import Tracker
from tests.orchestrator.journals import journal
from tests.orchestrator.tracking.servers import mlflow_server
from tests.processes import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium"),
]

LIMIT_S = 240.0  # until a page shows what it should, on a machine that is busy with other things
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--mute-audio",
         "--disable-component-update", "--window-size=9000,1400")  # fmt: skip
OWN = {"baseline": "slow", "levels": {"slow": {}, "fast": {"training.learning_rate": 1e-3, "training.clip_norm": 1}}}
EFFECTS = pd.DataFrame({name: [] for name in ("family", "domain", "factor", "level", "estimate", "low", "high")})
TEXT = "document.body.innerText"
HEADERS = "[...document.querySelectorAll('[role=columnheader]')].map((one) => one.innerText.trim())"
PRESS = "[...document.querySelectorAll('button')].find((one) => one.innerText.trim().startsWith('%s')).click()"
CHOOSE = """[...document.querySelectorAll("span, div")].filter((one) =>
  !one.children.length && one.textContent.trim() === "%s").at(-1).click()"""
DRAWN = "[...document.querySelectorAll('svg text')].map((one) => one.textContent.trim())"


class Browser:
    """A page of headless Chromium, led through its DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.numbers = socket, itertools.count(1)

    async def call(self, method: str, **parameters: object) -> dict:
        number = next(self.numbers)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while (one := await asyncio.wait_for(self.socket.receive_json(), LIMIT_S)).get("id") != number:
            pass
        return one.get("result", {})

    async def value(self, script: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)
        return found.get("result", {}).get("value")

    async def go(self, address: str) -> None:
        await self.call("Page.navigate", url="about:blank")
        await self.call("Page.navigate", url=address)

    async def until(self, script: str, *words: str) -> Any:
        """Look again and again until all words are in the value of a script; a fresh page has none yet."""
        end = time.monotonic() + LIMIT_S
        while not (value := await self.value(script)) or not all(word in value for word in words):
            if time.monotonic() > end:
                pytest.fail(f"{[word for word in words if word not in (value or '')]} not in {value!r:.3000}")
            await asyncio.sleep(0.25)
        return value


@contextmanager
def chromium(profile: Path) -> Iterator[int]:
    """Run Chromium and yield the port of its DevTools."""
    port = free_port()
    command = ["chromium", *FLAGS, f"--user-data-dir={profile}", f"--remote-debugging-port={port}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


async def look(port: int, lines: list[str], run: str) -> dict[str, Any]:
    """Return what the pages show: the table behind the link, the comparison, and a run."""
    from aiohttp import ClientError, ClientSession

    address = {line.partition(": http")[0].split(" ")[0]: f"http{line.partition(': http')[2]}" for line in lines}
    async with ClientSession() as session:
        for _ in range(240):
            try:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    if tabs := [tab for tab in await answer.json() if tab["type"] == "page"]:
                        break
            except ClientError:
                pass
            await asyncio.sleep(0.5)
        async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page, seen = Browser(socket), {}
            await page.go(address["all"])
            await page.until(TEXT, "text=caption pace=fast seed=1", "8 matching runs", "Show more columns")
            await page.value(PRESS % "Show more columns")
            await page.until(TEXT, "Reset to defaults")
            for factor in ("pace", "text"):
                await page.value(CHOOSE % factor)
            seen["columns"] = await page.until(HEADERS, "Parameters", "pace", "text")
            seen["table"] = await page.until(TEXT, "manifest.csv", "grid.yaml")
            await page.go(address["compare"])
            seen["compared"] = await page.until(TEXT, "Parallel Coordinates Plot", "Show diff only", "learning_rate")
            seen["drawn"] = await page.until(DRAWN, "pace", "fast", "slow", "text", "caption")
            await page.go(f"{address['report'].partition('/runs/')[0]}/runs/{run}?workflowType=machine_learning")
            seen["run"] = await page.until(TEXT, "Datasets", "Parameters (", "System metrics", "grid.yaml")
    return seen


def test_the_table_and_the_comparison_show_the_factors(make_grid, tmp_path):
    with mlflow_server(tmp_path / "server", f"sqlite:///{tmp_path}/server.db") as uri:
        grid = make_grid(factors={"text": ["off", "caption"], "pace": OWN}, tracking={"uri": uri})
        plan = make_plan(read_space(grid, storage=str(tmp_path / "sweeps")))
        write_plan(plan)
        for trial in plan.trials:
            journal(plan, trial, 8, "done")
            load = {"time": 1e9, "metrics": {"cpu_utilization_percentage": 50.0}}
            plan.paths.of(trial.id).load.write_text(json.dumps(load) + "\n")
        tracker = Tracker(plan, tags=environment_tags())
        tracker.start()
        assert tracker.close(timeout_s=240).replicates == 0
        page = tmp_path / "index.html"
        page.write_text("<p>the answer</p>")
        lines = publish(plan, page, EFFECTS, [row.id for row in plan.replicates[:4]])
        with chromium(tmp_path / "profile") as port:
            seen = asyncio.run(look(port, lines, tracker.run_ids[plan.replicates[-1].id]))
    assert "conditions.text.source" not in seen["compared"]  # the factor says it already
    assert all(f"{row.cell} seed={row.seed}" in seen["table"] for row in plan.replicates)
    assert "Model registry" in seen["table"]  # of model training; GenAI's menu has none
    assert re.search(r"training\.clip_norm\s+0\.0\s+1\.0", seen["compared"])
    assert re.search(r"pace\s+slow\s+fast", seen["compared"])
    assert "system/cpu_utilization_percentage" in seen["run"]
