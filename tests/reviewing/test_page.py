"""The page of a review: what it is asked for over HTTP, and what people do with it by keyboard in a real browser."""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from edgecls.collecting.labelled import LabelledFolder
from edgecls.files import write_bytes
from edgecls.reviewing.config import ReviewConfig
from edgecls.reviewing.items import Item
from edgecls.reviewing.run import Reviewed, review
from tests.browsing import chromium
from tests.collecting.test_page import CONTRAST, DIRECT, SIZES, text
from tests.reviewing.test_run import make_pool, picture
from tests.streaming.cameras import until


class Page:
    """A review through a page, in a thread."""

    def __init__(self, config: ReviewConfig, suspects: list[Item] | None = None):
        self.config = config
        self.url = ""
        self.result: Reviewed | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(suspects,))
        self._thread.start()
        until(lambda: bool(self.url))

    def _run(self, suspects: list[Item] | None) -> None:
        self.result = review(self.config, suspects, self._stop, lambda _, url: setattr(self, "url", url))

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url.partition("?")[0] + path, data, headers)
        try:
            with DIRECT.open(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def post(self, path: str, client: str = "anna", **body: Any) -> tuple[int, dict[str, Any]]:
        status, content = self.ask(path, {"client": client, **body})
        return status, json.loads(content)

    def group(self, client: str = "anna") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        def some() -> bool:
            found[:] = self.post("api/next", client)[1]["outcome"]
            return bool(found)

        until(some)
        return found

    def labels(self) -> list[str]:
        return sorted(row.label for row in LabelledFolder(self.config.data).rows())

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Page]]:
    pages: list[Page] = []

    def begin(**settings: Any) -> Page:
        pool = tmp_path / "pool" if (tmp_path / "pool").exists() else make_pool(tmp_path / "pool")
        pages.append(Page(ReviewConfig(pool=pool, data=tmp_path / "photos", web="0", **settings)))
        return pages[-1]

    yield begin
    for page in pages:
        page.end()


class TestByHttp:
    def test_a_group_is_labelled_and_undone(self, serve: Callable[..., Page]):
        page = serve()
        group = page.group()
        assert (group[0]["guess"], group[0]["reason"]) == ("bad", "wrong")  # what somebody said comes first
        seen = {each["id"]: each["version"] for each in group}
        status, answer = page.post("api/decide", seen=seen, verdict="label", label="ok/ä b")
        assert (status, len(answer["outcome"]["done"])) == (200, len(group))
        assert answer["state"]["undo"] == {"verdict": "label", "label": "ok/ä b", "images": len(group)}
        until(lambda: page.labels() == ["ok/ä b"] * len(group))
        status, answer = page.post("api/decide", "ben", seen=seen, verdict="reject")
        assert [each["id"] for each in answer["outcome"]["conflicts"]] == [*seen]
        assert answer["outcome"]["conflicts"][0]["verdict"] == {"kind": "label", "label": "ok/ä b"}
        back = page.post("api/decided", label="ok/ä b")[1]["outcome"]
        assert (back["count"], {each["id"] for each in back["items"]}) == (len(group), set(seen))
        assert page.post("api/undo")[1]["outcome"]["images"] == len(group)
        assert page.post("api/undo")[1]["outcome"] is None
        until(lambda: page.labels() == [])
        for kind in ("thumbnail", "picture"):
            code, jpeg = page.ask(f"{kind}/{group[0]['id']}")
            assert (code, jpeg[:2]) == (200, b"\xff\xd8")

    def test_files_of_any_name_are_shown_and_labelled(self, tmp_path: Path):
        names = [b"\xff.png", "\u2028\x85ä.png".encode()]
        (tmp_path / "pool").mkdir()
        for number, name in enumerate(names):
            (tmp_path / "pool" / os.fsdecode(name)).write_bytes(picture(number))
        page = Page(ReviewConfig(pool=tmp_path / "pool", data=tmp_path / "photos", web="0"))
        try:
            until(lambda: page.post("api/next")[1]["state"]["known"] == 2)
            for name in names:
                item = os.fsdecode(name)
                assert page.ask(f"thumbnail/{quote(name)}")[0] == 200
                status, answer = page.post("api/decide", seen={item: 0}, verdict="label", label="ok")
                assert (status, answer["outcome"]["done"]) == (200, [item])
            until(lambda: page.labels() == ["ok", "ok"])
            found = page.post("api/decided", label="ok")[1]["outcome"]["items"]
            assert {os.fsencode(each["id"]) for each in found} == set(names)
        finally:
            page.end()
        review(page.config, replay=True)
        assert page.labels() == ["ok", "ok"]

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("api/next", {}), ("api/next", b"{"), ("api/decide", {"client": "a"}), ("api/decide", [1]),
            ("api/decide", {"client": "a", "seen": {"x": True}, "verdict": "reject"}),
            ("api/decide", {"client": "a", "seen": {}, "verdict": "perhaps"}),
            ("api/decide", {"client": "a", "seen": {}, "verdict": "label", "label": ""}),
            ("api/decide", {"client": "../a", "seen": {}, "verdict": "reject"}),
            ("api/classes", {"client": "a", "label": "a\nb"}), ("api/decided", {"client": "a", "page": -1}),
            ("api/rename", {"client": "a", "old": "nobody", "label": "x"}),
        ],
    )  # fmt: skip
    def test_what_makes_no_sense_is_refused(self, serve: Callable[..., Page], path: str, body: Any):
        status, answer = serve().ask(path, body)
        assert status == 400
        assert len(json.loads(answer)["error"].splitlines()) == 1

    def test_strangers_and_other_sites_see_and_decide_nothing(self, serve: Callable[..., Page]):
        page = serve(web_token="secret")
        known = {"Authorization": "Bearer secret"}
        assert page.ask("api/next", {"client": "a"})[0] == 401
        assert page.ask("thumbnail/gate/20261128T100000.000Z.jpg")[0] == 401
        assert page.ask("api/next", {"client": "a"}, Origin="http://evil.example", **known)[0] == 403
        for path in ("thumbnail/../pool.jsonl", "thumbnail/pool.jsonl", "picture/%2e%2e/photos/data.csv"):
            assert page.ask(path, **known)[0] == 404


@pytest.fixture(scope="module", params=SIZES)
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    with chromium(*SIZES[request.param], phone=request.param == "phone") as driver:
        yield driver


def keys(browser: Any, *pressed: str) -> None:
    """Press keys, as somebody does who has seen the group that they are for."""
    from selenium.webdriver.common.action_chains import ActionChains

    until(lambda: browser.find_element("id", "pictures").get_attribute("aria-busy") == "false")
    ActionChains(browser).send_keys(*pressed).perform()


def count(browser: Any) -> int:
    return len(browser.find_elements("css selector", ".shot"))


class TestByKeyboard:
    def test_a_pool_is_labelled_without_a_mouse(self, serve: Callable[..., Page], browser: Any):
        from selenium.webdriver.common.keys import Keys

        page = serve(classes=("ok", "bad"))
        browser.get(page.url)
        until(lambda: count(browser) == 1 and "likely bad" in text(browser, "title"))
        keys(browser, Keys.ENTER)
        until(lambda: page.labels() == ["bad"])
        until(lambda: count(browser) >= 2 and "likely ok" in text(browser, "title"))
        group = count(browser)
        keys(browser, "b")
        until(lambda: len(browser.find_elements("css selector", ".shot[aria-pressed=true]")) == 1)
        keys(browser, "/")
        keys(browser, "1 neu/ü", Keys.ENTER)  # in which 1 is a letter
        until(lambda: page.labels() == ["1 neu/ü", "bad"])
        until(lambda: count(browser) == group - 1)
        keys(browser, "1")
        until(lambda: page.labels() == sorted(["1 neu/ü", "bad", *["ok"] * (group - 1)]))
        keys(browser, Keys.BACKSPACE)
        until(lambda: page.labels() == ["1 neu/ü", "bad"])
        until(lambda: text(browser, "said").startswith("undone"))
        until(lambda: count(browser) == group - 1)
        keys(browser, Keys.DELETE)
        until(lambda: f"{group - 1} no use" in text(browser, "progress"))
        while "All pictures are decided." not in text(browser, "title"):
            left = text(browser, "progress")
            keys(browser, "?")
            until(lambda before=left: text(browser, "progress") != before or "All" in text(browser, "title"))
        assert browser.get_log("browser") == []
        page.end()
        assert page.result is not None
        assert page.result.left == 0
        assert page.labels() == ["1 neu/ü", "bad"]

    def test_marked_pictures_without_another_guess_stay(self, serve: Callable[..., Page], browser: Any):
        from selenium.webdriver.common.keys import Keys

        page = serve(classes=("ok", "bad", *(f"class {number}" for number in range(3, 11))))
        browser.get(page.url)
        until(lambda: count(browser) == 1)
        keys(browser, Keys.DELETE)
        until(lambda: count(browser) == 2 and "likely ok" in text(browser, "title"))
        keys(browser, "ab", "a")  # a is marked, and not marked again
        until(lambda: text(browser, "accept").startswith("1: ok"))
        keys(browser, Keys.ENTER)
        until(lambda: page.labels() == ["ok"])
        until(lambda: count(browser) == 1)
        keys(browser, "0")
        until(lambda: page.labels() == ["class 10", "ok"])

    def test_it_can_be_read_and_pressed(self, serve: Callable[..., Page], browser: Any):
        page = serve(classes=tuple(f"a class with quite a long name {number}" for number in range(8)))
        for colours in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": colours}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            browser.get(page.url)
            until(lambda: count(browser) >= 1)
            browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
            keys(browser, "a")
            assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
            contrasts = browser.execute_script(CONTRAST)
            assert len(contrasts) > 40
            assert [each for each in contrasts if each[1] < 4.5] == []
            small = [
                (each.accessible_name, each.size)
                for each in browser.find_elements("css selector", "button, input, select")
                if each.is_displayed() and (each.size["height"] < 24 or not each.accessible_name)
            ]
            assert small == []

    def test_pictures_are_as_large_as_the_group_allows(self, serve: Callable[..., Page], browser: Any):
        page = serve(classes=("ok", "bad"))
        browser.get(page.url)
        until(lambda: count(browser) == 1)
        (alone,) = browser.find_elements("css selector", ".shot")
        width = browser.execute_script("return innerWidth")
        assert alone.size["width"] >= (300 if width >= 900 else 100)
        keys(browser, "1")
        until(lambda: count(browser) >= 2)
        bottom = browser.execute_script("return document.getElementById('pictures').getBoundingClientRect().bottom")
        assert width < 900 or bottom <= browser.execute_script("return innerHeight")

    def test_a_doubted_label_is_corrected_by_one_key(self, tmp_path: Path, browser: Any):
        from selenium.webdriver.common.keys import Keys

        folder = LabelledFolder(tmp_path / "photos")
        rows = [folder.add(picture(number), "ok", "gate", suffix=".png") for number in range(3)]
        write_bytes(tmp_path / "photos" / "other.png", picture(9))
        suspects = [Item(row.path, label="ok", suggested="bad", reason="label", other=rows[0].path) for row in rows[1:]]
        page = Page(ReviewConfig(data=tmp_path / "photos", web="0"), suspects)
        try:
            browser.get(page.url)
            until(lambda: text(browser, "title") == "2 pictures: said to be ok, rather bad")
            keys(browser, Keys.ENTER)
            until(lambda: page.labels() == ["bad", "bad", "ok"])
            until(lambda: count(browser) == 0)
            keys(browser, Keys.BACKSPACE)
            until(lambda: count(browser) == 2)
            keys(browser, "b")
            until(lambda: text(browser, "accept").startswith("1: bad, 1 as marked"))
            keys(browser, Keys.ENTER)
            until(lambda: page.labels() == ["bad", "ok", "ok"])
            until(lambda: count(browser) == 0)
            assert text(browser, "said") == "1 picture: ok, 1 picture: bad"
        finally:
            page.end()
