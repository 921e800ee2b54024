"""The dashboard in a real Chromium, which is skipped if the machine has none."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.browser.board import Board
from reports.browser.export import export
from reports.browser.server import Server
from reports.experiments import load
from tests.once import HANGS
from tests.reports.conftest import rows_of, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")
Serve = Callable[..., Server]
HOSTILE = """<script>document.title='hit'</script><img src=x onerror="document.title='hit'">"'&</b>"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def strange() -> list[str]:
    """What a page should not do: requests beyond loopback and files, and errors."""
    return []


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server on the runs in a folder, for an experiment or for all."""
    servers: list[Server] = []

    def start(root: Path, experiment: str | None = None) -> Server:
        servers.append(Server(Board(str(root), load(experiment) if experiment else None)))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def page(chromium: Any, strange: list[str], serve: Serve) -> Iterator[Any]:
    """A page, closed before its server stops. The test fails if it did something `strange`."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.set_default_timeout(1000 * HANGS)
    own = re.compile(r"http://127\.0\.0\.1:|file:|data:|blob:")
    page.on("request", lambda asked: None if own.match(asked.url) else strange.append(asked.url))
    page.on("pageerror", lambda error: strange.append(str(error)))
    page.on("console", lambda said: strange.append(said.text) if said.type == "error" else None)
    yield page
    context.close()
    assert strange == []


@pytest.fixture
def shown(tmp_path: Path, serve: Serve) -> tuple[Path, str]:
    """Two seeds of e5 and e6, and a third of e6 that still trains: their folder, and the address of the page."""
    root = tmp_path / "runs"
    for experiment in ("e5", "e6"):
        for seed in (1, 2):
            write_run(root / f"{experiment}-{seed}", experiment, seed)
    young = write_run(root / "e6-3", "e6", 3, rows=rows_of("e6", 3)[:12], finished=False)
    later = time.time() + HANGS  # however slow this machine is, the run counts as one that is being written
    os.utime(young / "loss.jsonl", (later, later))
    return root, serve(root, "e6").address


def _open(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("body[data-drawn]")
    _wait(page, "state.read === state.total")
    _drawn(page)


def _drawn(page: Any) -> None:
    page.evaluate("drawing")


def _wait(page: Any, condition: str) -> None:
    """Until `condition`; the page's policy forbids the driver's own way, which evaluates text there."""
    end = time.monotonic() + HANGS
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.05)


def _lines(page: Any, title: str) -> dict[str, list[list[float]]]:
    """Colour -> [steps, values] of the thick lines in the chart called `title`."""
    chart = page.locator(".chart:visible", has_text=title).first.locator(".plot")
    return chart.evaluate(
        "(plot) => Object.fromEntries(plot.data.filter((d) => d.line.width > 2).map((d) => [d.line.color, [d.x, d.y]]))"
    )


def _mean(experiment: str, metric: str) -> list[float]:
    """The mean over both seeds of what was logged."""
    seeds = [[row[metric] for _, row in rows_of(experiment, seed) if metric in row] for seed in (1, 2)]
    return [(a + b) / 2 for a, b in zip(*seeds, strict=True)]


def test_the_first_screen_is_the_answer(page: Any, shown: tuple[Path, str]) -> None:
    """FID, curvature against FID and loss are in view, drawn through the means over seeds, in the arms' colours."""
    _open(page, shown[1])
    for title in ("FID (lower is better)", "Hessian trace against FID", "training loss"):
        box = page.locator(".chart:visible", has_text=title).first.bounding_box()
        assert box["y"] + box["height"] / 2 < 900 and box["width"] > 300, title
    colours = page.evaluate("state.groups.map((g) => g.colour)")
    fid = _lines(page, "FID (lower is better)")
    pairs = _lines(page, "Hessian trace against FID")
    for experiment, colour in zip(("e5", "e6"), colours, strict=True):
        assert fid[colour][0] == [100, 200]
        assert fid[colour][1] == pytest.approx(_mean(experiment, "val/fid"), rel=1e-6)  # float32
        trace = _mean(experiment, "curvature/hutch_trace_mean")
        assert pairs[colour][0] == pytest.approx([trace[9], trace[19]])  # at steps 100 and 200
    assert page.title().startswith("e6: ")
    assert "5 runs of 2 arms" in page.locator("#status").inner_text()
    assert "1 training (e6 seed 3: step 100 of 200)" in page.locator("#status").inner_text()


def test_choices_are_drawn(page: Any, shown: tuple[Path, str]) -> None:
    """Arms, seeds, smoothing and axes change what they say and nothing else."""
    _open(page, shown[1])
    page.evaluate("$('smoothing').value = 0; draw()")
    _drawn(page)
    logged = [row["train/loss"] for _, row in rows_of("e5", 1) if "train/loss" in row]
    first = page.evaluate("state.groups[0].colour")
    assert _lines(page, "training loss")[first][1] == pytest.approx(_mean("e5", "train/loss"), rel=1e-6)
    page.locator("#groups summary").first.click()
    page.locator("#groups .group").first.locator("details input").nth(1).click()  # seed 2 of e5
    _drawn(page)
    assert _lines(page, "training loss")[first][1] == pytest.approx(logged, rel=1e-6)
    page.locator("#groups .group").nth(1).locator("> label input").click()  # e6
    _drawn(page)
    assert list(_lines(page, "training loss")) == [first]
    page.locator("#logx").click()
    page.locator(".chart", has_text="training loss").first.locator("input").click()
    _drawn(page)
    plot = page.locator(".chart", has_text="training loss").first.locator(".plot")
    assert plot.evaluate("(plot) => plot.layout.xaxis.type") == "log"
    assert plot.evaluate("(plot) => plot.layout.yaxis.type") in ("log", "linear")


def test_the_pages_arithmetic(page: Any, shown: tuple[Path, str]) -> None:
    """Catches a smoothing window off its centre or drawn towards zero at the ends; bins of two widths that do not
    meet; an interval that is not Student's: of seeds 1 and 3, mean 2 and standard error 1, with t = 12.7062."""
    _open(page, shown[1])
    assert page.evaluate("smooth([1, 2, 6, 4, 5], 3)") == [1.5, 3, 4, 5, 4.5]
    assert page.evaluate("smooth([1, 2, 6], 1)") == [1, 2, 6]
    found = page.evaluate(
        """gathered([
            { x: [1, 5, 9], y: [1, 3, 7], lo: [0, 2, 6], hi: [2, 4, 8], n: [4, 4, 4], width: 4 },
            { x: [0, 1, 2, 3, 4], y: [2, 4, 6, 8, 10] },
        ], 2, 1, 0).mean"""
    )
    assert found["x"] == [1, 5] and found["y"] == [(1 + 5) / 2, (3 + 10) / 2]
    assert page.evaluate("overSeeds([1, 3])") == pytest.approx(12.7062, abs=1e-4)
    assert page.evaluate("overSeeds([1]) === undefined")


def test_pointing_at_a_curve_tells_step_value_and_interval(page: Any, shown: tuple[Path, str]) -> None:
    _open(page, shown[1])
    plot = page.locator(".chart:visible", has_text="FID (lower is better)").first.locator(".plot")
    plot.evaluate(
        """(plot) => plot.emit("plotly_hover", {
            points: [{ x: 100, data: plot.data.at(-1) }], event: { clientX: 300, clientY: 300 },
        })"""
    )
    tip = page.locator("#tip").inner_text()
    mean = _mean("e6", "val/fid")[0]
    assert tip.startswith("step 100")
    assert f"e6: loss.weighting = minsnr: {mean:.5g} (mean of 2 seeds" in tip and "95 % interval over seeds" in tip


def test_a_growing_run_is_followed(page: Any, shown: tuple[Path, str]) -> None:
    """Rows, a milestone and a new run appear without a click (a benchmark measures how soon)."""
    root, address = shown
    _open(page, address)
    page.evaluate("toggle(state.runs, false); toggle(state.runs.filter((r) => r.id.startsWith('e6-s3')), true)")
    with (root / "e6-3" / "loss.jsonl").open("a") as file:
        file.write(json.dumps({"_i": 250, "out": {"train/loss": 0.125}}) + "\n")
    _wait(page, "state.runs.some((r) => r.step === 250)")
    _drawn(page)
    (line,) = _lines(page, "training loss").values()
    assert line[0][-1] == 250
    write_run(root / "new", "e6", 4)
    _wait(page, "state.runs.length === 6")
    assert "6 runs" in page.locator("#status").inner_text()


def test_what_runs_say_is_text(page: Any, serve: Serve, tmp_path: Path) -> None:
    """A hostile name, config, metric and note are shown as they are in every view, and nothing of them runs."""
    write_run(tmp_path / "runs" / "a", HOSTILE, train__name=HOSTILE)
    folder = write_run(tmp_path / "runs" / "b", "e5")
    card = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(
        json.dumps(card | {"run_id": HOSTILE, "protocols": {"aaaa1111": {"sampler": HOSTILE}}})
    )
    with (folder / "loss.jsonl").open("a") as file:
        file.write(json.dumps({"_i": 300, "out": {HOSTILE: 1.0, "train/mse": HOSTILE}}) + "\n")
    server = serve(tmp_path / "runs")
    _open(page, server.address)
    page.evaluate("chosen.clear(); state.metrics.forEach((m) => chosen.add(m.key))")
    assert HOSTILE in page.locator("#groups").inner_text()
    for button in page.locator("#tabs button").all():
        button.click()
        _drawn(page)
        page.evaluate("$('equal').checked = $('labels').checked = true; draw()")
        _drawn(page)
        page.mouse.wheel(0, 400)
        assert page.locator("main img[onerror], main script, aside script, body > script").count() == 0
    assert (
        HOSTILE in page.locator("#table").inner_text(timeout=1000)
        or HOSTILE in page.locator("#table table").text_content()
    )
    assert HOSTILE in page.locator("#configs table").text_content()
    assert HOSTILE in page.locator("#metrics").text_content()
    assert page.title() == "All runs"


def test_samples_configs_and_table(page: Any, shown: tuple[Path, str]) -> None:
    """Two arms side by side with a slider; what differs between two configs; a table that sorts by number."""
    _open(page, shown[1])
    page.locator("#tabs button", has_text="Samples").click()
    _drawn(page)
    images = page.locator("#samples img")
    assert [images.nth(i).get_attribute("src").endswith("-200.png") for i in (0, 1)] == [True, True]
    captions = page.locator("#samples figcaption").all_inner_texts()
    assert captions[0].startswith("e5") and captions[1].startswith("e6")
    page.locator("#grid-step").fill("0")
    _drawn(page)
    assert images.nth(0).get_attribute("src").endswith("-100.png")
    _wait(page, "[...document.querySelectorAll('#samples img')].every((i) => i.complete && i.naturalWidth === 24)")
    page.locator("#tabs button", has_text="Configs").click()
    _drawn(page)
    rows = [row.split("\t") for row in page.locator("#configs tr").all_inner_texts()]
    assert [row for row in rows if row[0] == "loss.weighting"] == [["loss.weighting", "constant", "minsnr"]]
    assert "diffusion.beta_schedule" not in [row[0] for row in rows]
    page.locator("#tabs button", has_text="Table").click()
    _drawn(page)
    page.locator("#table th", has_text="val/fid (last)").click()
    names = page.locator("#table tr").first.locator("th").all_inner_texts()
    place = next(i for i, name in enumerate(names) if name.startswith("val/fid (last)"))
    values = [float(v) for v in page.locator(f"#table td:nth-child({place + 1})").all_inner_texts()]
    assert values == sorted(values) and len(set(values)) == len(values)


def test_trace_by_noise_level(page: Any, serve: Serve, tmp_path: Path) -> None:
    """The slider's step is the one drawn, each bin at its middle."""
    rows: list[tuple[int, dict[str, Any]]] = [
        (
            step,
            {
                "train/loss": 1.0,
                **{f"curvature/trace_by_noise/lambda_{low}_mean": step + low for low in range(-8, 8, 2)},
            },
        )
        for step in (10, 20)
    ]
    write_run(tmp_path / "a", "e5", rows=rows)
    server = serve(tmp_path)
    _open(page, server.address)
    page.locator("#tabs button", has_text="By noise level").click()
    _drawn(page)
    (line,) = _lines(page, "by noise level").values()
    assert line == [[-7, -5, -3, -1, 1, 3, 5, 7], [12, 14, 16, 18, 20, 22, 24, 26]]
    page.locator("#noise-step").fill("0")
    _drawn(page)
    (line,) = _lines(page, "by noise level").values()
    assert line[1][0] == 2


def test_fids_of_two_protocols_are_never_on_one_axis(page: Any, serve: Serve, tmp_path: Path) -> None:
    write_run(tmp_path / "a", "e5")
    write_run(tmp_path / "b", "e6", protocol="cccc3333")
    server = serve(tmp_path)
    _open(page, server.address)
    assert len(_lines(page, "FID (lower is better)")) == 1
    assert len(_lines(page, "Hessian trace against FID")) == 1
    assert "1 run of another FID protocol is not on this axis" in page.locator("#overview-first").inner_text()
    before = _lines(page, "FID (lower is better)")
    page.locator("#protocol").select_option("cccc3333")
    _drawn(page)
    assert len(_lines(page, "FID (lower is better)")) == 1 and _lines(page, "FID (lower is better)") != before


def test_an_export_opens_without_a_server(page: Any, shown: tuple[Path, str], tmp_path: Path) -> None:
    """From disk the page draws what the live one draws."""
    _open(page, shown[1])
    live = {
        title: _lines(page, title) for title in ("FID (lower is better)", "training loss", "Hessian trace against FID")
    }
    written = export(str(shown[0]), "e6", tmp_path / "out")
    page.goto(written.as_uri())
    page.wait_for_selector("body[data-drawn]")
    assert {title: _lines(page, title) for title in live} == live
    for button in page.locator("#tabs button").all():
        button.click()
        _drawn(page)
    page.locator("#tabs button", has_text="Samples").click()
    _wait(page, "[...document.querySelectorAll('#samples img')].every((i) => i.complete && i.naturalWidth === 24)")
    assert "As of" in page.locator("#status").inner_text()


def test_a_server_that_is_gone_is_said(page: Any, strange: list[str], serve: Serve, tmp_path: Path) -> None:
    """Catches a page that looks alive while nothing comes any more."""
    write_run(tmp_path / "a", "e5")
    server = serve(tmp_path)
    _open(page, server.address)
    server.stop()
    page.locator("#status.away").wait_for()
    assert "does not answer" in page.locator("#status").inner_text()
    strange[:] = [line for line in strange if "Failed to" not in line]  # the browser says that the answer failed
