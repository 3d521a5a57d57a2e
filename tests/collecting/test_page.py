"""The page of collecting: what it is asked for over HTTP, and what people do with it in a real browser."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgecls
from edgecls.collecting.config import CollectConfig
from edgecls.collecting.labelled import LabelledFolder, read_labelled
from edgecls.collecting.run import Collected, collect
from edgecls.runtime.store import Artifact
from edgecls.streaming.config import CameraOptions, ReconnectPolicy
from tests.browsing import chromium
from tests.collecting.test_taking import scene
from tests.streaming.cameras import MjpegServer, until

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
QUICK = CameraOptions(reconnect=ReconnectPolicy(stale_s=0.5, stall_s=1.0, retry_s=0.1, retry_max_s=0.2))
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


def camera(port: int = 0) -> MjpegServer:
    """A camera before which something moves all the time."""
    server = MjpegServer(port)
    server.picture = scene
    return server


class Page:
    """Collecting through a page, in a thread."""

    def __init__(self, out: Path, source: str, **settings: Any):
        self.out = out
        self.url = ""
        self.result: Collected | None = None
        config = CollectConfig(
            camera=source, classes=("ok", "scratched", "empty"), out=out, web="0", camera_options=QUICK,
            per_second=20.0, **settings,
        )  # fmt: skip
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(config,))
        self._thread.start()

    def wait(self) -> None:
        """Until it is served and the camera is live."""
        until(lambda: bool(self.url))
        until(lambda: self.state()["camera"]["state"] == "live")

    def _run(self, config: CollectConfig) -> None:
        self.result = collect(config, self._stop, lambda _, url: setattr(self, "url", url))

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url.partition("?")[0] + path, data, headers)
        try:
            with DIRECT.open(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def post(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        status, content = self.ask(path, {"client": "anna", **body})
        return status, json.loads(content)

    def take(self, label: str = "ok", press: str = "1", client: str = "anna") -> tuple[int, dict[str, Any]]:
        return self.post("api/take", label=label, press=press, client=client)

    def state(self, client: str = "anna") -> dict[str, Any]:
        base, _, token = self.url.partition("?token=")
        request = urllib.request.Request(
            f"{base}api/updates?client={client}", headers={"Authorization": f"Bearer {token}"}
        )
        with DIRECT.open(request, timeout=20) as answer:
            return json.loads(answer.readline().removeprefix(b"data: "))

    def images(self) -> dict[str, int]:
        return {each["label"]: each["images"] for each in self.state()["classes"]}

    def require_nothing_doubled(self) -> None:
        rows, unlisted = read_labelled(self.out)
        assert unlisted == []
        digests = {hashlib.sha256((self.out / row.path).read_bytes()).hexdigest() for row in rows}
        assert len(digests) == len(rows) == sum(self.images().values())

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Page]]:
    pages: list[Page] = []
    cameras = [camera()]

    def begin(source: str = "", **settings: Any) -> Page:
        pages.append(Page(tmp_path / "photos", source or f"door={cameras[0].url}", **settings))
        pages[-1].wait()
        return pages[-1]

    yield begin
    for page in pages:
        page.end()
    for each in cameras:
        each.stop()


class TestByHttp:
    def test_a_press_takes_pictures_of_one_series(self, serve: Callable[..., Page]):
        page = serve()
        for _ in range(3):
            status, answer = page.take()
            assert (status, answer["outcome"]) == (200, "taken")
        assert answer["state"]["classes"][0] == {
            "label": "ok", "images": 3, "series": 1, "splits": {"train": 3, "val": 0, "test": 0}, "left_out": 0,
        }  # fmt: skip
        assert answer["state"]["undo"] == {"label": "ok", "images": 3}
        assert {row.source for row in LabelledFolder(page.out).rows()} == {"door"}
        code, jpeg = page.ask(f"recent/{answer['state']['recent'][0]['id']}")
        assert (code, jpeg[:2]) == (200, b"\xff\xd8")
        page.require_nothing_doubled()
        page.end()
        assert page.result is not None
        assert page.result.taken == 3

    def test_the_last_press_is_undone(self, serve: Callable[..., Page]):
        page = serve()
        page.take()
        page.take("scratched", "2")
        page.take("scratched", "2")
        assert page.post("api/undo")[1]["outcome"] == {"label": "scratched", "images": 2}
        assert page.post("api/undo", client="ben")[1]["outcome"] is None
        assert page.images() == {"ok": 1, "scratched": 0, "empty": 0}
        page.require_nothing_doubled()

    @pytest.mark.parametrize("label", ["ok/ä b", "..", "CON", "<b>&amp;", "日本"])
    def test_a_class_of_any_name_can_be_added(self, serve: Callable[..., Page], label: str):
        page = serve()
        assert page.post("api/classes", label=f" {label} ")[1]["outcome"] == label
        assert page.take(label)[0] == 200
        assert page.images()[label] == 1
        page.require_nothing_doubled()

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("api/take", {"label": "nobody knows", "press": "1"}), ("api/take", {"label": "ok"}), ("api/take", b"{"),
            ("api/take", {"label": "ok", "press": "../1"}), ("api/take", {"label": 7, "press": "1"}),
            ("api/take", [1]), ("api/classes", {"label": ""}), ("api/classes", {"label": "a\nb"}),
            ("api/classes", {"label": "x" * 65}), ("api/classes", {"label": None}), ("api/undo", b"x" * 100_000),
        ],
    )  # fmt: skip
    def test_what_makes_no_sense_is_refused(self, serve: Callable[..., Page], path: str, body: Any):
        page = serve()
        status, answer = page.ask(path, body)
        assert status == 400
        assert len(json.loads(answer)["error"].splitlines()) == 1
        assert page.images() == {"ok": 0, "scratched": 0, "empty": 0}

    def test_other_sites_and_strangers_take_nothing(self, serve: Callable[..., Page], tmp_path: Path):
        page = serve(web_token="secret")
        body = {"label": "ok", "press": "1"}
        assert page.ask("api/take", body)[0] == 401
        known = {"Authorization": "Bearer secret"}
        assert page.ask("api/take", body, Origin="http://evil.example", **known)[0] == 403
        assert page.ask("api/take", body, **{"Sec-Fetch-Site": "cross-site"}, **known)[0] == 403
        assert page.ask("api/take", **known)[0] == 405
        assert page.ask("healthz")[0] == 200
        assert LabelledFolder(page.out).rows() == []

    def test_two_people_at_once_lose_and_double_nothing(self, serve: Callable[..., Page]):
        page = serve()
        taken: list[str] = []

        def press(client: str, label: str) -> None:
            for number in range(12):
                status, answer = page.take(label, str(number // 4), client)
                taken.extend([label] * (status == 200 and answer["outcome"] == "taken"))

        people = [threading.Thread(target=press, args=each) for each in (("anna", "ok"), ("ben", "empty"))]
        for person in people:
            person.start()
        for person in people:
            person.join()
        assert page.images() == {"ok": taken.count("ok"), "scratched": 0, "empty": taken.count("empty")}
        assert min(taken.count("ok"), taken.count("empty")) >= 6
        page.require_nothing_doubled()

    def test_a_folder_that_cannot_be_written_is_one_error_until_it_can(self, serve: Callable[..., Page]):
        page = serve()
        page.take()
        (page.out / "scratched").write_text("a file where the folder should be")
        status, answer = page.take("scratched", "2")
        assert status == 507
        assert "cannot write" in answer["error"]
        assert page.state()["error"] == answer["error"]
        (page.out / "scratched").unlink()
        assert page.take("scratched", "2")[0] == 200
        assert page.state()["error"] is None
        page.require_nothing_doubled()

    def test_pictures_of_somebody_else_are_counted(self, serve: Callable[..., Page]):
        page = serve()
        LabelledFolder(page.out).add(b"jpeg", "another", "phone")
        assert page.images() == {"ok": 0, "scratched": 0, "empty": 0, "another": 1}

    def test_a_model_says_what_it_sees(self, serve: Callable[..., Page], bundle: Callable[..., Artifact]):
        model = bundle("onnx", "int8").path
        page = serve("demo", model=model)
        until(lambda: page.state()["guess"] is not None)
        with edgecls.load(model) as classifier:
            assert page.state()["guess"]["label"] in classifier.card.classes
            assert page.state()["model"] == classifier.card.name


@pytest.fixture(scope="module", params=SIZES)
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    with chromium(*SIZES[request.param], phone=request.param == "phone") as driver:
        yield driver


def button(browser: Any, number: int) -> Any:
    return browser.find_element("css selector", f"#class-{number}")


def press(browser: Any, number: int) -> None:
    """Press a button with the mouse, or on a phone with a finger that does not keep still."""
    from selenium.webdriver.common.action_chains import ActionChains

    if not has_touch(browser):
        ActionChains(browser).click_and_hold(button(browser, number)).perform()
        return
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button(browser, number))
    place = browser.execute_script(
        "const r = arguments[0].getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2}",
        button(browser, number),
    )
    touch(browser, "touchStart", place)
    touch(browser, "touchMove", {"x": place["x"] + 5, "y": place["y"] + 25})


def release(browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    if has_touch(browser):
        touch(browser, "touchEnd")
    else:
        ActionChains(browser).release().perform()


def has_touch(browser: Any) -> bool:
    return browser.execute_script("return matchMedia('(pointer: coarse)').matches")


def touch(browser: Any, kind: str, *points: dict[str, float]) -> None:
    browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def opened(browser: Any, page: Page) -> None:
    browser.get(page.url)
    until(lambda: text(browser, "away") == "camera live")
    until(lambda: len(browser.find_elements("css selector", ".class")) >= 3)


def text(browser: Any, name: str) -> str:
    return browser.execute_script("return document.getElementById(arguments[0]).textContent", name)


def hold(browser: Any, page: Page, number: int, label: str, more: int = 3) -> None:
    """Hold a button until so many more pictures of a class were taken."""
    before = page.images().get(label, 0)
    press(browser, number)
    until(lambda: page.images()[label] >= before + more)
    release(browser)


def settled(page: Page) -> dict[str, int]:
    """The counts when no picture is under way."""
    counts = page.images()
    while True:
        time.sleep(0.3)
        if (now := page.images()) == counts:
            return counts
        counts = now


class TestInABrowser:
    def test_a_held_button_takes_a_series_and_no_more_after_it(self, serve: Callable[..., Page], browser: Any):
        page = serve()
        opened(browser, page)
        hold(browser, page, 2, "scratched")
        counts = settled(page)
        assert (counts["ok"], counts["empty"]) == (0, 0)
        assert len({row.group for row in LabelledFolder(page.out).rows()}) == 1
        until(lambda: text(browser, "count-2") == f"{counts['scratched']} of 50 images")
        read_out = f"scratched: {counts['scratched']} of 50 images"
        until(lambda: text(browser, "counts").startswith(read_out))
        until(lambda: len(browser.find_elements("css selector", "#recent img")) == min(8, counts["scratched"]))
        browser.find_element("id", "undo").click()
        until(lambda: page.images()["scratched"] == 0)
        page.require_nothing_doubled()
        assert browser.get_log("browser") == []

    def test_the_keyboard_is_enough(self, serve: Callable[..., Page], browser: Any):
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        page = serve()
        opened(browser, page)
        ActionChains(browser).key_down("3").perform()
        until(lambda: page.images()["empty"] >= 2)
        ActionChains(browser).key_up("3").perform()
        empty = settled(page)["empty"]
        ActionChains(browser).send_keys(Keys.TAB).perform()
        focused = browser.switch_to.active_element
        assert focused.accessible_name == "take ok"
        assert browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", focused) == "solid"
        ActionChains(browser).key_down(" ").perform()
        until(lambda: page.images()["ok"] >= 2)
        ActionChains(browser).key_up(" ").perform()
        settled(page)
        ActionChains(browser).send_keys("u").perform()
        until(lambda: page.images()["ok"] == 0)
        assert page.images()["empty"] == empty
        while browser.switch_to.active_element.get_attribute("id") != "name":
            ActionChains(browser).send_keys(Keys.TAB).perform()
        ActionChains(browser).send_keys("1 ü/new", Keys.ENTER).perform()  # in which 1 and u are letters
        until(lambda: "1 ü/new" in page.images())
        assert (page.images()["ok"], page.images()["empty"]) == (0, empty)
        until(lambda: button(browser, 4).accessible_name == "take 1 ü/new")

    def test_a_page_that_is_loaded_again_goes_on(self, serve: Callable[..., Page], browser: Any):

        page = serve()
        opened(browser, page)
        press(browser, 1)
        until(lambda: page.images()["ok"] >= 2)
        opened(browser, page)  # in the middle of it
        count = settled(page)["ok"]
        until(lambda: text(browser, "count-1") == f"{count} of 50 images")
        release(browser)
        browser.find_element("id", "undo").click()
        until(lambda: page.images()["ok"] == 0)

    def test_another_browser_sees_the_same(self, serve: Callable[..., Page], browser: Any):
        page = serve()
        opened(browser, page)
        page.take("empty", client="somebody-else")
        until(lambda: text(browser, "count-3") == "1 of 50 images")
        assert not browser.find_element("id", "undo").is_enabled()  # it is not ours

    def test_a_camera_that_is_lost_while_a_button_is_held(self, serve: Callable[..., Page], browser: Any):

        own = camera()
        page = serve(f"gate={own.url}")
        opened(browser, page)
        press(browser, 1)
        until(lambda: page.images()["ok"] >= 2)
        own.stop()
        until(lambda: text(browser, "away") == "camera is disconnected")
        until(lambda: text(browser, "said").endswith("waiting for the camera"))
        assert "lost" in browser.find_element("id", "picture").get_attribute("class")
        before = settled(page)["ok"]
        again = camera(own.port)
        again.picture = lambda index: scene(index + 1000)
        until(lambda: page.images()["ok"] > before)
        release(browser)
        settled(page)
        page.require_nothing_doubled()
        again.stop()

    def test_an_error_of_the_folder_is_said_and_ends_the_series(self, serve: Callable[..., Page], browser: Any):
        page = serve()
        opened(browser, page)
        page.out.mkdir(exist_ok=True)
        (page.out / "ok").write_text("a file where the folder should be")
        button(browser, 1).click()
        until(lambda: browser.find_element("id", "error").is_displayed())
        assert "cannot write" in text(browser, "error")
        (page.out / "ok").unlink()
        hold(browser, page, 1, "ok", 1)
        until(lambda: not browser.find_element("id", "error").is_displayed())

    def test_the_end_of_the_program_is_said(self, serve: Callable[..., Page], browser: Any):
        page = serve()
        opened(browser, page)
        page.end()
        until(lambda: text(browser, "away") == "no connection to the program")

    @pytest.mark.parametrize("colours", ["light", "dark"])
    def test_it_can_be_read_and_pressed(self, serve: Callable[..., Page], browser: Any, colours: str):
        page = serve()
        for number in range(7):
            page.post("api/classes", label=f"a class with quite a long name {number}")
        features = [{"name": "prefers-color-scheme", "value": colours}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        opened(browser, page)
        press(browser, 1)
        until(lambda: page.images()["ok"] >= 3)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        contrasts = browser.execute_script(CONTRAST)
        release(browser)
        assert len(contrasts) > 40
        assert [each for each in contrasts if each[1] < 4.5] == []
        small = [
            (each.accessible_name, each.size)
            for each in browser.find_elements("css selector", "button, input")
            if each.size["height"] < 40 or each.size["width"] < 40 or not each.accessible_name
        ]
        assert small == []
        own = browser.execute_script(
            "return performance.getEntriesByType('resource').every(e => new URL(e.name).origin === location.origin)"
        )
        assert own


CONTRAST = """
const channel = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = c => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
const parse = s => (s.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
function behind(e) { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > .99) return c; } return [255, 255, 255]; }
const says = e => e.tagName !== "SCRIPT" && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
return [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() && says(e))
  .map(e => { const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
    return [e.textContent.slice(0, 40), (Math.max(a, b) + .05) / (Math.min(a, b) + .05)]; });
"""
"""Texts and their contrast with what is behind them; WCAG's AA asks for 4.5."""
