"""The page in a real browser: by mouse and by keyboard, at a telephone's width, with a key, and without a foreign host."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.serving.fake_engine import FakeEngine, photo
from tests.deploy.serving.photo_index import make_index
from tests.deploy.serving.requests_to import running, write_manifest

webdriver = pytest.importorskip("selenium.webdriver")
KEY = "k3y-of-twenty-letters"
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--window-size=1200,900",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page")
    make_index(made, FakeEngine())
    (made / "mine.jpg").write_bytes(photo("orange", size=(640, 480)))
    write_manifest(made, name="a")
    return made


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with running(folder, f"index={folder / 'index'}") as (_, found):
        yield found


def element(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def wait(browser: Any, condition: Callable[[], Any], what: str) -> Any:
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda _: condition(), what)


def status(browser: Any) -> str:
    return element(browser, "#status").text


def open_page(browser: Any, address: str, width: int = 1200, height: int = 900) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get(address)
    wait(browser, lambda: "fake" in element(browser, "#model").text, "the model's name")


def choose_photo(browser: Any, file: Path) -> None:
    element(browser, "#tab-photo").click()
    element(browser, "#file").send_keys(str(file))
    wait(browser, lambda: "is ready" in status(browser), "the photo")


def submit(browser: Any, verb: str, expected: str) -> None:
    element(browser, f'form[data-verb="{verb}"] button').click()
    wait(browser, lambda: expected in status(browser), f"{verb}: {expected}, got {status(browser)}")


def test_every_verb_on_a_photo(browser: Any, address: str, folder: Path) -> None:
    open_page(browser, address)
    choose_photo(browser, folder / "mine.jpg")
    area = element(browser, "#labels")
    area.clear()
    area.send_keys("a cat\na dog\n\n")
    submit(browser, "classify", "Best label")
    assert len(browser.find_elements("css selector", 'form[data-verb="classify"] li')) == 2
    submit(browser, "caption", "written")
    assert element(browser, 'form[data-verb="caption"] .answer').text.startswith("a photo of")
    submit(browser, "answer", "Answer: yes")
    submit(browser, "match", "Fits with")
    submit(browser, "detect", "1 thing found")
    assert painted(browser) > 100
    submit(browser, "segment", "2 regions")
    submit(browser, "ground", "Shown")
    assert "Red" in element(browser, "#legend").text
    element(browser, "#clear").click()
    assert painted(browser) == 0


def painted(browser: Any) -> int:
    """Pixels of the marks on the photo that are not transparent."""
    return browser.execute_script(
        "const c = document.getElementById('overlay');"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 == 3 && v > 0).length"
    )


def test_search_by_words_and_by_a_photo_that_was_found(browser: Any, address: str) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(browser, address)
    element(browser, "#words").send_keys("a red car", Keys.ENTER)
    wait(browser, lambda: "7 photos" in status(browser), "photos")
    images = browser.find_elements("css selector", "#photos img")
    assert len(images) == 7
    wait(browser, lambda: all(image.get_property("naturalWidth") > 0 for image in images), "thumbnails")
    browser.find_elements("css selector", "#photos button")[3].click()
    wait(browser, lambda: "like" in status(browser), "photos like it")


def test_mistakes_are_told_in_the_status_line(browser: Any, address: str, folder: Path) -> None:
    open_page(browser, address)
    element(browser, "#tab-photo").click()
    submit(browser, "caption", "Choose a photo first")
    (folder / "text.jpg").write_text("no photo")
    element(browser, "#file").send_keys(str(folder / "text.jpg"))
    wait(browser, lambda: "damaged" in status(browser), "a damaged photo")
    choose_photo(browser, folder / "mine.jpg")
    element(browser, "#labels").clear()
    element(browser, "#labels").send_keys("<img src=x onerror=alert(1)>")
    submit(browser, "classify", "Best label: <img")


def test_by_keyboard_alone(browser: Any, address: str) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(browser, address)

    def press(key: str) -> str:
        browser.switch_to.active_element.send_keys(key)
        return browser.switch_to.active_element.get_attribute("id")

    seen = [press(Keys.TAB) for _ in range(5)]
    assert "tab-search" in seen
    while browser.switch_to.active_element.get_attribute("id") != "tab-search":
        press(Keys.SHIFT + Keys.TAB)
    assert press(Keys.ARROW_LEFT) == "tab-photo"
    assert element(browser, "#panel-photo").is_displayed()
    assert not element(browser, "#panel-search").is_displayed()
    assert press(Keys.TAB) == "file"
    outline = browser.execute_script("return getComputedStyle(document.getElementById('drop')).outlineStyle")
    assert outline == "solid"


def test_everything_has_a_name_for_screen_readers(browser: Any, address: str) -> None:
    open_page(browser, address)
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('input, textarea, button, img, [role=tabpanel]')].filter(e => "
        "!(e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.alt || "
        "(e.tagName == 'BUTTON' && e.textContent.trim()))).map(e => e.outerHTML)"
    )
    assert unnamed == []
    assert element(browser, "#status").get_attribute("aria-live") == "polite"
    assert element(browser, "html").get_attribute("lang") == "en"


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_wider_than_a_telephone(browser: Any, address: str, folder: Path, width: int) -> None:
    open_page(browser, address, width, 700)
    for tab in ("#tab-search", "#tab-photo"):
        element(browser, tab).click()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    choose_photo(browser, folder / "mine.jpg")
    submit(browser, "detect", "1 thing found")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_dark_and_light_differ(browser: Any, address: str) -> None:
    colors = []
    for scheme in ("dark", "light"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        open_page(browser, address)
        colors.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colors[0] != colors[1]


def test_with_a_key(browser: Any, folder: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    with running(folder, f"index={folder / 'index'}", f"key={KEY}") as (_, address):
        browser.get(address)
        wait(browser, lambda: element(browser, "#key-form").is_displayed(), "the form for the key")
        element(browser, "#key").send_keys("wrong", Keys.ENTER)
        wait(browser, lambda: "needs its key" in status(browser), "a wrong key")
        element(browser, "#key").clear()
        element(browser, "#key").send_keys(KEY, Keys.ENTER)
        wait(browser, lambda: "fake" in element(browser, "#model").text, "the model's name")
        element(browser, "#words").send_keys("a red car", Keys.ENTER)
        wait(browser, lambda: "7 photos" in status(browser), "photos")
        image = element(browser, "#photos img")
        wait(browser, lambda: image.get_property("naturalWidth") > 0, "a thumbnail")
        browser.execute_script("sessionStorage.clear()")


def test_the_interface_is_described_without_foreign_scripts(browser: Any, address: str) -> None:
    browser.get(f"{address}/docs")
    wait(browser, lambda: "POST /v1/embeddings" in element(browser, "main").text, "the routes")
    assert "encoding_format" in element(browser, "main").text


def test_no_request_left_this_machine_and_nothing_broke_the_policy(browser: Any, address: str) -> None:
    """Of all tests above, as the browser's own log has it."""
    open_page(browser, address)
    urls = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            urls.append(message["params"]["request"]["url"])
    pages = [url for url in urls if url.startswith("http")]
    assert len(pages) > 3
    assert all(url.startswith("http://127.0.0.1:") for url in pages), urls
    wrong = [entry["message"] for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]]
    assert wrong == []
