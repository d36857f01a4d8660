"""The HTML report of runs in headless Chromium: drawing, dragging, sorting, no requests."""

import json
import os
import shlex
import shutil
import subprocess
import time

import numpy as np
import pytest
from run_files import finished

from kanrun.cli.app import main
from kanrun.model.loaded_run import load_run

pytestmark = pytest.mark.slow
ERROR = "document.querySelector('.living .bar span.number').textContent"


class Browser:
    """Chromium with a temporary profile, controlled by the pipe of its developer tools."""

    def __init__(self, profile):
        names = "chromium", "chromium-browser", "google-chrome"
        program = next(filter(None, map(shutil.which, names)), None)
        assert program is not None, (
            "this test needs Chromium: install it (Debian: apt install chromium)"
        )
        reads, to_browser = os.pipe()
        from_browser, writes = os.pipe()
        options = """--headless --no-sandbox --disable-gpu --remote-debugging-pipe --disable-sync
            --disable-dev-shm-usage --disable-background-networking --window-size=1100,1400"""
        words = [program, *options.split(), f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {shlex.join(words)} 3<&{reads} 4>&{writes}"],
            pass_fds=(reads, writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self._out, self._in = os.fdopen(to_browser, "wb"), os.fdopen(from_browser, "rb")
        self._number = 0
        self.events = []
        (page,) = [
            one for one in self.send("Target.getTargets")["targetInfos"] if one["type"] == "page"
        ]
        target = {"targetId": page["targetId"], "flatten": True}
        self._session = self.send("Target.attachToTarget", **target)["sessionId"]
        for part in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{part}.enable")

    _session = None

    def send(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        message = bytearray()
        while (part := self._in.read(1)) != b"\0":
            assert part, "Chromium ended"
            message += part
        return json.loads(message)

    def value(self, script):
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, url):
        """Open a page, given by its path or address, and wait for its script."""
        self.send("Page.navigate", url=url if isinstance(url, str) else url.as_uri())
        end = time.monotonic() + 30
        while self.value("document.documentElement?.dataset.ready") != "yes":
            assert time.monotonic() < end, "the page's script did not finish"
            time.sleep(0.1)

    def seen(self, method):
        """Return the parameters of all events of a method so far."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def asked(self):
        """Return the addresses that the page has requested."""
        return [e["request"]["url"] for e in self.seen("Network.requestWillBeSent")]

    def mouse(self, kind, x, y):
        self.send(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1
        )

    def slide(self, part=0):
        """Move the slider of an interactive part to its start."""
        living = f"document.querySelectorAll('.living')[{part}]"
        self.value(f"""(() => {{
            const slider = {living}.querySelector('input[type=range]');
            slider.value = 0;
            slider.dispatchEvent(new Event('input'));
        }})()""")

    def key(self, name):
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def end(self):
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    common = "sampling.n_train=200 sampling.n_test=100 solver.steps=5"
    for command in (
        f"fit model.hidden=[2] model.intervals=[3,6] {common}",
        "curves parts=[bezier,bspline]",
        f"fit model=mlp model.hidden=[3] {common}",
        "solve equation=heat tolerance=1e-3",
    ):
        finished(command, folder / "outputs")
    report(folder, "fit/1", "curves/1", page="first.html")
    return folder


def report(folder, *names, page="report.html"):
    """Write the report of runs, and return its path."""
    page = folder / page
    place = ["--force", "-o", str(page), "--outputs", str(folder / "outputs")]
    assert main(["runs", "report", *names, *place]) == 0
    return page


@pytest.fixture
def browser(runs, tmp_path):
    found = Browser(tmp_path / "profile")
    try:
        found.open(runs / "first.html")
        yield found
    finally:
        found.end()


def test_page_of_a_run_reacts_in_the_browser(runs, browser):
    count = "document.querySelectorAll('.living svg').length"
    assert (
        browser.value(count) == 3 + 2
    )  # network, edge and prediction; a Bézier curve and a B-spline
    model = load_run(runs / "outputs/fit/v0001").model()

    # own inputs predict what the engine predicts
    browser.value("""(() => {
        const fields = document.querySelectorAll('.living input[type=number]');
        fields[0].value = '0.3';
        fields[1].value = '-0.2';
        fields[1].dispatchEvent(new Event('input'));
    })()""")
    shown = browser.value("document.querySelector('.living p.number').textContent")
    assert float(shown.split("=")[1]) == pytest.approx(
        float(model(np.array([0.3, -0.2]))[0]), rel=1e-3
    )

    # hovering an edge shows its function; dragging a control point changes the error at once
    title = """[...document.querySelectorAll('.living svg')[1].querySelectorAll('text')]
        .map(text => text.textContent).join(' ')"""
    before_title = browser.value(title)
    browser.value(
        "document.querySelector('[data-edge=\"1,0,1\"]').dispatchEvent(new Event('pointerenter'))"
    )
    assert browser.value(title) != before_title
    before = browser.value(ERROR)
    browser.value("document.querySelector('.handle').scrollIntoView({block: 'center'})")
    box = browser.value("""(() => {
        const r = document.querySelectorAll('.handle')[2].getBoundingClientRect();
        return [r.x + r.width / 2, r.y + r.height / 2];
    })()""")
    browser.mouse("mousePressed", *box)
    browser.mouse("mouseMoved", box[0], box[1] - 40)
    browser.mouse("mouseReleased", box[0], box[1] - 40)
    after = browser.value(ERROR)
    assert after != before
    assert after.startswith("RMSE on 100 test points: ")

    # the keyboard moves control points too, and the button gives the trained network back
    browser.value("document.querySelectorAll('.handle')[2].focus()")
    browser.key("ArrowUp")
    assert browser.value(ERROR) != after
    assert browser.value("document.activeElement.dataset.handle") == "2"
    browser.value("document.querySelector('.living button').click()")
    assert browser.value(ERROR) == before

    # the slider runs through the grids
    browser.slide()
    assert browser.value("document.querySelector('.living output').textContent") == "3 intervals"
    assert browser.value(ERROR) != before


def test_pages_of_an_mlp_and_of_time_windows_react_in_the_browser(runs, browser):
    browser.open(report(runs, "fit/2", "solve/1"))
    before = browser.value(ERROR)
    browser.value("document.querySelector('.handle').focus()")
    browser.key("ArrowUp")
    assert browser.value(ERROR) != before
    field = (
        "document.querySelectorAll('.living')[1].querySelectorAll('input[type=number]')[1].value"
    )
    late = float(browser.value(field))
    browser.slide(1)
    assert float(browser.value(field)) < late
    said = "document.querySelectorAll('.living')[1].querySelector('p.number').textContent"
    assert "outside" not in browser.value(said)
    assert not browser.seen("Runtime.exceptionThrown")


def test_tables_sort_without_errors_or_requests(browser):
    up, down = browser.value("""(() => {
        const tables = [...document.querySelectorAll('table.sorts')];
        const table = tables.find(t => t.tBodies[0].rows.length > 1);
        const cells = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent);
        const button = table.querySelectorAll('th button')[1];
        button.click();
        const up = cells();
        button.click();
        return [up, cells()];
    })()""")
    assert len(up) > 1
    assert sorted(up) == sorted(down)
    assert up == down[::-1] or len(set(up)) < len(up)
    browser.send("Runtime.evaluate", expression="1")
    assert not browser.seen("Runtime.exceptionThrown")
    assert not [e for e in browser.seen("Log.entryAdded") if e["entry"]["level"] == "error"]
    assert all(url.startswith(("file:", "data:")) for url in browser.asked())
    assert sum(url.startswith("file:") for url in browser.asked()) == 1
    blocked = browser.value("fetch('https://example.org').then(() => 'sent', () => 'blocked')")
    assert blocked == "blocked"


def test_the_lesson_moves_by_keys_and_links_hold_what_was_moved(browser, tmp_path):
    page = tmp_path / "lesson.html"
    assert main(["lesson", "-q", "-o", str(page), "--outputs", str(tmp_path / "outputs")]) == 0
    assert page.stat().st_size < 3e6
    browser.events.clear()
    browser.open(page)
    sections = "[...document.querySelectorAll('section')]"
    drawn = browser.value(f"{sections}.map(s => s.querySelectorAll('.living svg').length)")
    assert len(drawn) == 12
    assert min(drawn) >= 1
    assert browser.value("document.querySelectorAll('.living .link').length") == 12
    links = []
    living = "[...document.querySelectorAll('.living')]"
    for name in browser.value(f"{living}.map(part => part.dataset.source)"):
        part = f"document.querySelector('[data-source={name}]')"
        before = browser.value(f"{part}.innerHTML")
        control = f"({part}.querySelector('input[type=range]') || {part}.querySelector('.handle'))"
        browser.value(f"{control}.focus()")
        for key in ("ArrowRight",) if name == "basis" else ("ArrowLeft", "ArrowDown"):
            browser.key(key)
        assert browser.value(f"{part}.innerHTML") != before, name
        browser.value(f"{part}.querySelector('.link').focus()")
        link = browser.value(f"{part}.querySelector('.link').href")
        status = f"{part}.querySelector('[role=status]').textContent"
        links.append((link, status, browser.value(status)))
    for link, status, shown in links:
        browser.send("Page.navigate", url="about:blank")
        browser.open(link)
        assert browser.value(status) == shown
    assert all(url.startswith(("file:", "about:")) for url in browser.asked())
    assert not browser.seen("Runtime.exceptionThrown")
    width = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.send("Emulation.setDeviceMetricsOverride", **width)
    browser.open(page)
    assert browser.value("document.documentElement.scrollWidth") <= 390
