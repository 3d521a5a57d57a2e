"""A real browser, without a screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.streaming.cameras import found

CHROMIUM, CHROMEDRIVER = found("chromium"), found("chromedriver")


@contextmanager
def chromium(width_px: int = 1200, height_px: int = 900, phone: bool = False) -> Iterator[Any]:
    """Chromium's driver; a `phone` has exactly this size, and touch."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("Chromium and its driver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--window-size={width_px},{height_px}",
    ):  # fmt: skip
        options.add_argument(argument)
    if phone:
        metrics = {"width": width_px, "height": height_px, "pixelRatio": 2, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()
