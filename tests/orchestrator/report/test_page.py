"""The page is whole, needs nothing from outside, says the numbers of effects.parquet, and no name can break it."""

import asyncio
import base64
import io
import itertools
import json
import re
import shutil
import socket
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import soundfile

from orchestrator.report.analyse import analyse
from orchestrator.report.listening import flac, png, power, rolloff_hz
from orchestrator.report.page import write_page
from sagasr.constants import ROLLOFF_SHARE, SAMPLE_RATE
from sagasr.io.files import read_json, write_json
from tests.orchestrator.sweep_folders import noisy_grid, with_clips, write_sweep

EVIL = "<script>alert(1)</script>"
QUOTES = "\"'><img src=x onerror=alert(2)>"
RTL = "\u202eקול 🎧</script><!--"
FACTORS = {"text": ["off", EVIL], QUOTES: ["off", RTL]}
SECTIONS = {
    *("answer", "effects", "ladder", "interactions", "curves", "clips", "listen", "references", "cost", "failures"),
    *("methods", "provenance"),
}


class Page(HTMLParser):
    """What a browser would find: tags with attributes, ids, data of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, str] = {}
        self.words: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            attributes = self._open[-1][1]
            self.data[str(attributes.get("id") or attributes.get("class") or attributes.get("type") or "code")] = data
        else:
            self.words.append(data)

    @property
    def ids(self) -> set[str]:
        return {str(attributes["id"]) for _, attributes in self.tags if "id" in attributes}

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def noise(level: float, seconds: float = 0.4, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * SAMPLE_RATE))).astype(np.float32)


def hostile(folder: Path, seeds: int = 3, lost: int = 0) -> Path:
    """Write a sweep whose names attack the page: two factors, a ladder, clips, curves, references and audio."""
    rows = noisy_grid(FACTORS, seeds, {"text": -0.3})
    for index, row in enumerate(rows):
        row |= {"replicate": f"r{index}", "trial": f"t{index}", "wall_seconds": 10.0, "gpu_seconds": 1.0, "steps": 20}
    for row in rows[:lost]:
        row |= {"status": "failed", "reason": f"NaN {EVIL}", "lsd": float("nan")}
    kept = [row for row in rows if row.get("status") != "failed"]
    clips = [row | {"clip": row["clip"] + EVIL, "domain": RTL} for row in with_clips(kept, 3)]
    ladder = [{"step": EVIL, "levels": {}}, {"step": RTL, "levels": {"text": EVIL}, "versus": EVIL}]
    cells: dict[str, dict] = {}
    for row in rows:
        levels = {name: row[name] for name in FACTORS}
        cell = cells.setdefault(str(levels), {"cell": " ".join(levels.values()), "levels": levels, "replicates": []})
        cell["replicates"].append({"seed": row["seed"], "replicate": row["replicate"], "trial": row["trial"]})
    write_sweep(folder, rows, FACTORS, clips=clips, delta=0.05, ladder=ladder, cells=list(cells.values()),
                name=f"sweep {QUOTES}", question=f"{EVIL}{RTL}?")  # fmt: skip
    curves = [
        {"replicate": row["replicate"], "metric": metric, "step": step, "value": 2 / (1 + step) + 0.01 * row["seed"]}
        for row in rows
        for metric in ("train/loss", "val/lsd")
        for step in (1, 10, 20)
    ]
    pd.DataFrame(curves).to_parquet(folder / "results" / "curves.parquet")
    low = [{"subject": "low", "clip": f"c0{EVIL}", "domain": RTL, "lsd": 4.0}]
    pd.DataFrame(low).to_parquet(folder / "results" / "references.parquet")
    (folder / "grid.yaml").write_text(f"name: {EVIL}\n")
    for index, kind in enumerate(["high", "low", *(row["replicate"] for row in kept)]):
        target = folder / "audio" / kind
        target.mkdir(parents=True)
        for clip in ("c0", "c1 & <b>"):
            soundfile.write(target / f"{clip}.flac", noise(0.05 + 0.01 * index, seed=index), SAMPLE_RATE)
    return folder


def built(folder: Path, **options: int) -> tuple[Path, pd.DataFrame]:
    report = analyse(folder)
    return write_page(report, folder, **options), report.effects


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Page, str, pd.DataFrame]:
    path, effects = built(folder)
    text = path.read_text(encoding="utf-8")
    return Page(text), text, effects


def test_every_section_is_there(made: tuple[Page, str, pd.DataFrame]) -> None:
    assert made[0].ids >= SECTIONS


def test_nothing_is_asked_from_outside(made: tuple[Page, str, pd.DataFrame]) -> None:
    page, _, _ = made
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "audio", "video")
        for key in ("src", "href", "action", "srcset", "data"):
            if key in attributes:
                assert str(attributes[key]).startswith(("#", "data:image/png;base64,")), attributes
    policy = next(found["content"] for tag, found in page.tags if found.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    assert "@import" not in page.data["code"]


def test_hostile_names_make_no_tags_and_no_handlers(made: tuple[Page, str, pd.DataFrame]) -> None:
    page, text, _ = made
    assert EVIL not in text
    assert sum(tag == "script" and "type" not in attributes for tag, attributes in page.tags) == 1
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert not any(attributes.get("src") == "x" for _, attributes in page.tags)
    assert EVIL in page.text  # shown as it is written


def test_the_numbers_are_those_of_the_table(folder: Path, made: tuple[Page, str, pd.DataFrame]) -> None:
    page, _, _ = made
    table = pd.read_parquet(folder / "results" / "effects.parquet")
    copied = pd.read_csv(io.StringIO(json.loads(page.data["page-data"])["effects"]))
    assert len(copied) == len(table)
    for name in ("estimate", "low", "high", "low_runs", "high_runs", "p_adjusted"):
        np.testing.assert_allclose(copied[name], table[name], rtol=1e-12)
    shown = {found["data-contrast"]: found for tag, found in page.tags if tag == "tr" and "data-contrast" in found}
    primary = table[table["family"] == "primary"]
    assert set(shown) == set(primary["contrast"])
    for row in primary.itertuples():
        assert float(str(shown[row.contrast]["data-estimate"])) == row.estimate
        assert float(str(shown[row.contrast]["data-low"])) == row.low


def test_the_answer_names_what_improves_and_n_of_n(made: tuple[Page, str, pd.DataFrame]) -> None:
    text = made[0].text
    assert "improves lsd" in text
    assert "all 12 of 12 replicates" in text


def test_a_partial_sweep_says_so_and_why(tmp_path: Path) -> None:
    path, _ = built(hostile(tmp_path, lost=2))
    text = Page(path.read_text(encoding="utf-8")).text
    assert "partial: 10 of 12 replicates" in text
    assert text.count(f"NaN {EVIL}") == 2


def test_a_sweep_without_a_result_or_extras_still_has_a_page(tmp_path: Path) -> None:
    rows = [row | {"status": "failed", "reason": "out of memory"} for row in noisy_grid({"text": ["off", "on"]}, 1, {})]
    path, _ = built(write_sweep(tmp_path, rows, {"text": ["off", "on"]}))
    page = Page(path.read_text(encoding="utf-8"))
    assert "There is no answer yet" in page.text
    assert "out of memory" in page.text
    assert "listen" not in page.ids


def test_a_sweep_of_one_finished_replicate_can_be_heard(tmp_path: Path) -> None:
    folder = hostile(tmp_path, seeds=1)
    for heard in sorted((folder / "audio").glob("r*"))[1:]:
        shutil.rmtree(heard)
    path, _ = built(folder)
    assert "listen" in Page(path.read_text(encoding="utf-8")).ids


def test_what_a_page_cannot_hold_is_left_out_and_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "sweep")
    whole, _ = built(tmp_path / "sweep")
    size = whole.stat().st_size
    half, _ = built(tmp_path / "sweep", max_bytes=int(0.7 * size))
    page = Page(half.read_text(encoding="utf-8"))
    assert re.search("[345] of 6 versions of every clip", page.text)
    assert half.stat().st_size < 0.9 * size
    assert {one["kind"] for one in json.loads(page.data["page-data"])["versions"][:2]} == {"low", "high"}
    small, _ = built(tmp_path / "sweep", max_bytes=int(0.3 * size))
    assert "1 of 2 clips" in Page(small.read_text(encoding="utf-8")).text


def test_a_folder_named_by_the_plan_cannot_leave_the_sweep(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "sweep")
    shutil.copytree(folder / "audio" / "r0", tmp_path / "outside")
    plan = read_json(tmp_path / "sweep" / "plan.json")
    plan["cells"][0]["replicates"] = [{"seed": 0, "replicate": "../../outside", "trial": "t0"}]
    write_json(tmp_path / "sweep" / "plan.json", plan)
    path, _ = built(tmp_path / "sweep")
    versions = json.loads(Page(path.read_text(encoding="utf-8")).data["page-data"])["versions"]
    assert len(versions) == 2 + 3


def test_takes_are_lossless_and_matched_in_level(made: tuple[Page, str, pd.DataFrame]) -> None:
    takes = json.loads(made[0].data["clip-data"])["takes"]
    levels = []
    for take in takes:
        sound, rate = soundfile.read(io.BytesIO(base64.b64decode(take["audio"])))
        assert rate == SAMPLE_RATE
        assert np.abs(sound).max() <= 0.9
        levels.append(np.sqrt(np.mean(sound**2)))
    assert np.ptp(levels) < 1e-3 * np.mean(levels)


def test_a_picture_is_a_png_that_others_read() -> None:
    from matplotlib.image import imread

    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert imread(io.BytesIO(png(pixels))).shape[:2] == (3, 4)
    sound = np.clip(noise(0.1)[None], -1, 1)
    read, _ = soundfile.read(io.BytesIO(flac(sound)))
    np.testing.assert_allclose(read, sound[0], atol=1 / 32_000)


def test_the_marked_roll_off_is_that_of_the_trainer() -> None:
    from scipy.signal import butter, sosfiltfilt

    from sagasr.audio import spectrum

    assert ROLLOFF_SHARE == spectrum.ROLLOFF_SHARE
    low = sosfiltfilt(butter(8, 4_000, fs=SAMPLE_RATE, output="sos"), noise(0.1, 1.0))[None].astype(np.float32)
    assert rolloff_hz(power(low)) == pytest.approx(spectrum.rolloff_hz(low), rel=0.03)


# ---------------------------------------------------------------------------------------------------- in a real browser


PLAY = """(async () => {
  const pause = (time) => new Promise((done) => setTimeout(done, time));
  const card = document.querySelector("article.clip");
  const state = () => document.querySelector("#player-state").textContent;
  const axis = document.querySelector("#curve-axis");
  axis.value = "hours";
  axis.dispatchEvent(new Event("change"));
  card.querySelector(".play").click();
  for (let tries = 0; tries < 200 && !state(); tries += 1) await pause(50);
  const first = state();
  card.querySelector("button[data-slot=b]").click();
  const second = state();
  const running = card.querySelector(".play").getAttribute("aria-pressed");
  document.querySelector("#blind").click();
  const hidden = [...card.querySelectorAll(".slot-version")].map((part) => part.textContent);
  document.querySelectorAll("article.clip [data-vote=a]").forEach((button) => button.click());
  document.querySelector("#blind-done").click();
  const boxes = [...document.querySelectorAll("svg.curves, svg.course, svg.track, svg.scatter, svg.interaction")];
  return {
    first, second, running, hidden,
    answers: document.querySelector("#blind-text").value,
    moved: document.querySelectorAll("polyline[data-hours][transform]").length,
    ticks: document.querySelector(".x-ticks[data-axis=hours]").hidden,
    flat: boxes.filter((one) => one.getBoundingClientRect().height < 20 && !one.closest("details")).length,
    drawn: boxes.length,
    pictures: [...document.images].every((image) => image.naturalWidth > 0),
    unnamed: [...document.querySelectorAll("button, select, input, textarea")].filter((one) =>
      !one.textContent.trim() && !one.labels?.length && !one.ariaLabel).length,
    injected: [...document.querySelectorAll("script")].filter((one) => !one.type && one.src).length,
  };
})()"""
LOADED = """new Promise((done) => {
  const there = () => document.readyState === "complete" && document.querySelector("#page-data");
  const look = () => (there() ? done() : setTimeout(look, 50));
  look();
})"""
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--mute-audio",
         "--disable-component-update")  # fmt: skip
WRONG = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


class Seen(NamedTuple):
    """What a page did in a browser: the value of a script, complaints of the console, addresses asked for."""

    value: Any
    complaints: list[str]
    asked: list[str]


async def _visit(address: str, port: int, script: str, framed: bool) -> Seen:
    """Open a page, run a script in it (or in its frame) as if a person had clicked, and return all that was seen."""
    from aiohttp import ClientError, ClientSession

    heard: list[dict] = []
    within: dict[str, str] = {}
    numbers = itertools.count(1)
    async with ClientSession() as session:
        for _ in range(120):
            try:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
                if tabs:
                    break
            except ClientError:
                pass
            await asyncio.sleep(0.5)
        async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:

            async def call(method: str, **parameters: object) -> dict:
                number = next(numbers)
                await socket.send_json({"id": number, "method": method, "params": parameters} | within)
                while (one := await asyncio.wait_for(socket.receive_json(), 120)).get("id") != number:
                    heard.append(one)
                return one["result"]

            async def met(event: str) -> dict:
                while not (found := [one for one in heard if one.get("method") == event]):
                    heard.append(await asyncio.wait_for(socket.receive_json(), 120))
                return found[0]["params"]

            for domain in ("Runtime", "Log", "Network", "Page"):
                await call(f"{domain}.enable")
            await call("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True)
            await call("Page.navigate", url=address)
            await met("Page.loadEventFired")
            if framed:  # a sandboxed frame lives in a process of its own
                within["sessionId"] = (await met("Target.attachedToTarget"))["sessionId"]
                for domain in ("Runtime", "Log", "Network"):
                    await call(f"{domain}.enable")
            options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
            await call("Runtime.evaluate", expression=LOADED, **options)
            result = await call("Runtime.evaluate", expression=script, **options)
    complaints = [json.dumps(one["params"]) for one in heard if one.get("method") in WRONG]
    asked = [one["params"]["request"]["url"] for one in heard if one.get("method") == "Network.requestWillBeSent"]
    return Seen(result["result"].get("value", result), complaints, asked)


def visit(page: Path, profile: Path, script: str, framed: bool = False) -> Seen:
    """Open a page in headless Chromium through its DevTools protocol."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["chromium", *FLAGS, f"--user-data-dir={profile}", f"--remote-debugging-port={port}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as browser:
        try:
            return asyncio.run(_visit(page.as_uri(), port, script, framed))
        finally:
            browser.terminate()


def preview(page: Path, target: Path) -> Path:
    """Write a page that shows another as MLflow does: from a blob, in a frame that may run scripts and nothing else."""
    code = base64.b64encode(page.read_bytes()).decode()
    target.write_text(
        f"""<!doctype html><iframe sandbox="allow-scripts" style="width:1000px;height:900px"></iframe><script>
        const bytes = Uint8Array.from(atob("{code}"), (letter) => letter.charCodeAt(0));
        document.querySelector("iframe").src = URL.createObjectURL(new Blob([bytes], {{ type: "text/html" }}));
        </script>"""
    )
    return target


browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


@pytest.mark.slow
@browser
@pytest.mark.parametrize("framed", [False, True], ids=["file", "sandboxed preview"])
def test_a_browser_plays_switches_draws_and_judges_without_error_or_request(
    folder: Path, tmp_path: Path, framed: bool
) -> None:
    path, _ = built(folder)
    shown = preview(path, tmp_path / "preview.html") if framed else path
    said, complaints, asked = visit(shown, tmp_path / "profile", PLAY, framed)
    assert said["first"].endswith(": A")
    assert said["second"].endswith(": B")
    assert said["running"] == "true"
    assert said["hidden"].count("hidden until you reveal") == 2
    assert said["moved"] > 0
    assert said["ticks"] is False
    assert (said["flat"], said["unnamed"], said["injected"]) == (0, 0, 0)
    assert said["drawn"] > 8
    assert said["pictures"]
    assert not complaints
    assert [one for one in asked if not one.startswith(("data:", "blob:"))] == [shown.as_uri()]
    answers = json.loads(said["answers"])
    assert {trial["preferred"] for trial in answers["trials"]} <= {"A", "B"}
    (tmp_path / "sweep").mkdir()
    shutil.copytree(folder, tmp_path / "sweep", dirs_exist_ok=True)
    (tmp_path / "sweep" / "report" / "preferences.json").write_text(said["answers"])
    (found,) = analyse(tmp_path / "sweep").preferences  # what the page says, the analysis reads
    assert found.a_preferred + found.b_preferred == len(answers["trials"])
