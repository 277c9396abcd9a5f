"""The report in a browser, as a reader has it."""

import base64
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlka_med.report.report import write_report

from .conftest import HOSTILE, make_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def page(dims, dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    run = make_run(folder / "run", dataset, dims)
    others = dataset / "others"
    return write_report(run.path, dataset / "predictions", out=folder / "page.html", against=others, workers=1)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("NOT TESTED: there is no chromium with its chromedriver; install both to look at the report")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER, log_output=os.devnull))
    yield driver
    driver.quit()


@pytest.fixture(params=[1280, 360])
def view(browser, page, request):
    """The page in a window of that width."""
    size = {"width": request.param, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())
    return browser


def pixels(browser, element):
    """What the element looks like, (rows, columns, 3), wherever the page is scrolled to."""
    told = "const b = arguments[0].getBoundingClientRect(); return [b.x + scrollX, b.y + scrollY, b.width, b.height]"
    clip = dict(zip(("x", "y", "width", "height"), browser.execute_script(told, element), strict=True)) | {"scale": 1}
    asked = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    written = base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", asked)["data"])
    return np.asarray(Image.open(io.BytesIO(written)).convert("RGB")).astype(int)


def press(element, key, times=1):
    element.send_keys(*[key] * times)


def test_nothing_is_wrong_and_nothing_leaves_the_file(view, page):
    assert view.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in view.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert [url[:60] for url in asked if not url.startswith("data:") and url != page.as_uri()] == []


def test_all_pictures_are_there(view):
    sizes = view.execute_script("return [...document.images].map(image => [image.complete, image.naturalWidth])")
    assert len(sizes) > 5
    assert all(complete and width > 0 for complete, width in sizes)


def test_nothing_reaches_beyond_the_window(view):
    width, window = view.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width == window
    view.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    told = (
        "return [...document.querySelectorAll('main *')].filter(one => !one.closest('.scroll'))"
        ".filter(one => one.getBoundingClientRect().right > innerWidth + 0.5).map(one => one.outerHTML.slice(0, 200))"
    )
    assert view.execute_script(told) == []
    assert view.execute_script("return document.documentElement.scrollWidth") == window


def test_names_of_html_do_no_harm(view):
    from selenium.webdriver.common.by import By

    assert HOSTILE in view.execute_script("return document.body.textContent")
    assert view.find_elements(By.CSS_SELECTOR, "img[src='x']") == []


def test_the_slider_moves_the_slice(view, dims):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    sliders = view.find_elements(By.CSS_SELECTOR, ".plane input[type=range]")
    assert len(sliders) == (12 if dims == 3 else 0)
    for slider in sliders[:3]:
        plane = slider.find_element(By.XPATH, "./ancestor::figure")
        stage, told = (plane.find_element(By.CSS_SELECTOR, name) for name in (".stage", "output"))
        press(slider, Keys.HOME)
        before = pixels(view, stage)
        assert told.text.startswith("1 of ")
        press(slider, Keys.ARROW_RIGHT, 6)
        assert told.text.startswith("7 of ")
        assert slider.get_attribute("aria-valuetext").startswith("slice 7 of")
        after = pixels(view, stage)
        assert (np.abs(after - before).max(axis=-1) > 20).mean() > 0.02
        press(slider, Keys.HOME)
        assert np.abs(pixels(view, stage) - before).max() <= 3


def test_the_outlines_follow_the_slice(view, dims):
    """Where the reference has nothing, nothing is drawn."""
    if dims == 2:
        return
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    plane = view.find_elements(By.CSS_SELECTOR, ".plane")[2]  # sagittal: the structures begin at its fifth slice
    slider = plane.find_element(By.TAG_NAME, "input")
    paths = plane.find_elements(By.CSS_SELECTOR, ".reference path")
    press(slider, Keys.HOME)
    assert [path.get_attribute("d") for path in paths] == ["", ""]
    press(slider, Keys.ARROW_RIGHT, 6)
    assert [bool(path.get_attribute("d")) for path in paths] == [True, False]


def test_the_switches_hide_what_is_drawn(view):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    article = view.find_element(By.TAG_NAME, "article")
    stage = article.find_element(By.CSS_SELECTOR, ".stage")
    boxes = {box.get_attribute("value"): box for box in article.find_elements(By.CSS_SELECTOR, ".switches input")}
    assert list(boxes) == ["reference", "prediction", "errors", "uncertainty", "numbers"]
    for name, box in boxes.items():
        shown = article.find_element(By.CSS_SELECTOR, f".{name}")
        was = box.is_selected()
        assert shown.is_displayed() == was == (name not in ("errors", "uncertainty"))
        before = pixels(view, stage)
        press(box, Keys.SPACE)
        assert shown.is_displayed() != was
        assert (np.abs(pixels(view, stage) - before).max(axis=-1) > 20).any()
        press(box, Keys.SPACE)
        assert np.abs(pixels(view, stage) - before).max() <= 3


def test_all_can_be_reached_by_the_keyboard(view):
    """Tab goes through links, switches, sliders and tables in the order of the page, and each is marked."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    wanted = view.find_elements(By.CSS_SELECTOR, "nav a, article input")
    body, met = view.find_element(By.TAG_NAME, "body"), []
    for _ in range(len(wanted) + 12):
        body.send_keys(Keys.TAB)
        active = view.switch_to.active_element
        met.append(active)
        if active in wanted:
            assert active.value_of_css_property("outline-style") == "solid"
        if active == wanted[-1]:
            break
    assert [one for one in met if one in wanted] == wanted
