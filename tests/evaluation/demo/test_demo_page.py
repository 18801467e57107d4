"""The page in a browser: headless Chromium, with a model that sees what colour a pixel has."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite.data.record_format import encode_png

from .colour_model import INFO, panoptic_of, scene, segment, served

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")

webdriver = pytest.importorskip("selenium.webdriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM.exists() and DRIVER.exists()), reason="needs Debian's chromium-driver")

WIDTH, HEIGHT = 90, 60


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium.webdriver.chrome.service import Service

    folder = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    flags += ["disable-component-update", "disable-sync", "window-size=1400,1000", f"user-data-dir={folder / 'user'}"]
    for flag in flags:
        options.add_argument(f"--{flag}")
    (folder / "downloads").mkdir()
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service(str(DRIVER)), options=options)
    driver.downloads = folder / "downloads"
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(scene()).save(folder / "street.png")
    whole = encode_png(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").touch()
    Image.new("RGB", (20_000, 2)).save(folder / "wide.png")
    (folder / "large.png").write_bytes(bytes(300_000))
    return folder


@pytest.fixture
def page(browser):
    with served() as server:
        open_page(browser, server)
        yield browser
        # Nothing was refused by the page's own policy, and no script failed.
        refused = [line["message"] for line in browser.get_log("browser") if "status of 4" not in line["message"]]
        assert refused == []


def open_page(browser, server):
    browser.get(server.url)
    wait(browser, lambda: browser.execute_script("return document.body.dataset.ready") == "yes")


def wait(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda _: condition())


def find(browser, name):
    return browser.find_element("id", name)


def choose(browser, path):
    find(browser, "file").send_keys(str(path))


def shown(browser, path):
    choose(browser, path)
    wait(browser, lambda: browser.execute_script("return document.body.dataset.shown") == path.name)


def pixels(browser):
    """The canvas, uint8 [height, width, 3]."""
    uri = browser.execute_script("return document.getElementById('canvas').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


def at(canvas, x, y):
    """The canvas at the middle of a pixel of the image."""
    scale = canvas.shape[1] // WIDTH
    return canvas[y * scale + scale // 2, x * scale + scale // 2].astype(int).tolist()


def switch(browser, layer):
    find(browser, f"layer-{layer}").click()


def hover(browser, x, y):
    """Moves the mouse to the middle of a pixel of the image; returns what the page says of it."""
    from selenium.webdriver.common.action_chains import ActionChains

    canvas = find(browser, "canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    box = canvas.rect
    right, down = ((x + 0.5) / WIDTH - 0.5) * box["width"], ((y + 0.5) / HEIGHT - 0.5) * box["height"]
    ActionChains(browser, duration=0).move_to_element_with_offset(canvas, round(right), round(down)).perform()
    wait(browser, lambda: f"x {x}, y {y}" in find(browser, "readout").text)
    return find(browser, "readout").text


def test_layers_are_switched(page, files):
    shown(page, files / "street.png")
    both = pixels(page)
    assert both.shape == (HEIGHT * 10, WIDTH * 10, 3)
    colors = {name: np.array(INFO.classes[i].color) for i, name in ((3, "vegetation"), (4, "sky"))}
    np.testing.assert_allclose(at(both, 70, 20), 0.45 * 255 + 0.55 * colors["sky"], atol=2)
    switch(page, "panoptic")
    np.testing.assert_allclose(at(pixels(page), 70, 20), [255] * 3, atol=4)
    np.testing.assert_allclose(at(pixels(page), 30, 35), [200, 0, 0], atol=8)
    switch(page, "image")
    assert at(pixels(page), 70, 20) == [16, 18, 21]
    # Contours lie on the borders of things, and nowhere else.
    lines = (pixels(page) > 150).all(axis=2)
    assert lines[350, 200] and lines[350, 400] and not lines[350, 210:390].any() and not lines[410:, 700:].any()
    switch(page, "contours")
    assert len(np.unique(pixels(page).reshape(-1, 3), axis=0)) == 1
    switch(page, "instances")
    page.execute_script(
        "const o = document.getElementById('opacity'); o.value = 100; o.dispatchEvent(new Event('input'))"
    )
    instances = pixels(page)
    assert find(page, "percent").text == "100 %"
    assert at(instances, 70, 20) == [16, 18, 21] and at(instances, 30, 35) != at(instances, 50, 35)
    switch(page, "instances")
    switch(page, "semantic")
    semantic = pixels(page)
    assert at(semantic, 30, 35) == at(semantic, 50, 35) == [0, 0, 142]
    assert at(semantic, 70, 50) == colors["vegetation"].tolist() and at(semantic, 85, 3) == colors["sky"].tolist()
    switch(page, "semantic")
    switch(page, "offsets")
    assert at(pixels(page), 30, 35) == [255, 0, 0] and find(page, "wheel").is_displayed()
    switch(page, "offsets")
    switch(page, "heatmap")
    assert at(pixels(page), 30, 35) == [252, 255, 180] and at(pixels(page), 50, 35) == [16, 18, 21]
    assert find(page, "heat").is_displayed() and not find(page, "wheel").is_displayed()


def test_what_is_below_the_mouse_is_what_the_map_has(page, files):
    shown(page, files / "street.png")
    panoptic = panoptic_of(scene())
    for x, y in [(30, 35), (50, 35), (5, 5), (70, 50), (85, 3), (0, 0), (89, 59), (39, 30), (40, 30)]:
        text = hover(page, x, y)
        class_id, number = divmod(int(panoptic[y, x]), 1000)
        name = "void" if class_id == INFO.ignore_label else INFO.classes[class_id].name
        assert text.split(": ", 1)[1].startswith(name)
        if number:
            assert f"car {number}, score {'0.88' if number == 1 else '0.25'}" in text
        assert f"probability {round(255 * x / 89) / 255:.2f} here" in text
    # The instance below the mouse is outlined, and its row is marked.
    hover(page, 30, 35)
    assert at(pixels(page), 20, 40)[2] < 255
    yellow = (pixels(page) == (255, 230, 0)).all(axis=2)
    assert yellow[350, 200] and yellow[350, 400] and not yellow[350, 600]
    assert [row.text.split() for row in page.find_elements("css selector", "#instances tr.here")] == [
        ["car", "1", "0.88", "500"]
    ]


def test_classes_and_instances_are_listed(page, files):
    shown(page, files / "street.png")
    rows = [" ".join(row.text.split()) for row in page.find_elements("css selector", "#instances tr")]
    assert rows == ["car 1 0.88 500", "car 2 0.25 400"]
    legend = [item.text.replace("\n", " ") for item in page.find_elements("css selector", "#legend li")]
    panoptic = panoptic_of(scene())
    shares = {i: f"{100 * (panoptic // 1000 == i).mean():.1f} %" for i in (3, 4, 6, 255)}
    assert legend == [f"vegetation {shares[3]}", f"sky {shares[4]}", f"car 2, {shares[6]}", f"void {shares[255]}"]
    assert "street.png: 90 x 60 pixels" in find(page, "status").text


def test_the_keyboard_moves_over_the_image(page, files):
    from selenium.webdriver.common.keys import Keys

    shown(page, files / "street.png")
    canvas = find(page, "canvas")
    page.execute_script("arguments[0].focus()", canvas)
    canvas.send_keys(Keys.ARROW_RIGHT)
    assert find(page, "readout").text.startswith("x 46, y 30: car 2")
    canvas.send_keys(Keys.SHIFT + Keys.ARROW_UP)
    assert find(page, "readout").text.startswith("x 46, y 20: sky")
    row = page.find_element("css selector", "#instances tr")
    page.execute_script("arguments[0].focus()", row)
    assert (pixels(page) == (255, 230, 0)).all(axis=2)[350, 200]


def test_downloads_are_the_map(page, files):
    shown(page, files / "street.png")
    for name in ("save-png", "save-json", "save-picture"):
        find(page, name).click()
    expected = {"street.png", "street.json", "street_picture.png"}
    wait(page, lambda: {p.name for p in page.downloads.iterdir()} == expected)
    channels = np.asarray(Image.open(page.downloads / "street.png"))
    panoptic = panoptic_of(scene())
    ids = channels.astype(np.int64) @ [1, 256, 65536]
    np.testing.assert_array_equal(ids, np.where(panoptic == INFO.void_id, 0, panoptic + 1))
    coco = json.loads((page.downloads / "street.json").read_text())
    areas = {s["id"]: (s["category_id"], s["area"]) for s in coco["annotations"][0]["segments_info"]}
    assert areas == {i + 1: (i // 1000, int((panoptic == i).sum())) for i in (3000, 4000, 6001, 6002)}
    assert len(coco["categories"]) == 9
    picture = np.asarray(Image.open(page.downloads / "street_picture.png").convert("RGB"))
    np.testing.assert_array_equal(picture, pixels(page))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.png", "text.png: not an image"),
        ("empty.png", "empty.png: is empty (0 bytes)"),
        ("cut.png", "cut.png: damaged or cut off"),
        ("wide.png", "wide.png: 20000 x 2 pixels; this page takes up to 0.1 million, and 16384 a side"),
        ("large.png", "large.png: 0.3 MB; this page takes images of up to 0.2 MB"),
    ],
)
def test_bad_files_are_answered_by_a_message(page, files, name, message):
    shown(page, files / "street.png")
    choose(page, files / name)
    wait(page, lambda: find(page, "error").is_displayed())
    assert find(page, "error").text.startswith(message)
    assert find(page, "status").text == ""
    # A good one takes the message away.
    page.execute_script("document.body.dataset.shown = ''")
    shown(page, files / "street.png")
    assert not find(page, "error").is_displayed()


def test_an_image_is_dropped(page, files):
    script = """
        const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "dropped.png"));
        for (const kind of ["dragenter", "drop"]) {
          document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
        }
    """
    page.execute_script(script, base64.b64encode((files / "street.png").read_bytes()).decode())
    wait(page, lambda: page.execute_script("return document.body.dataset.shown") == "dropped.png")
    assert "dragging" not in page.find_element("tag name", "body").get_attribute("class")


def test_without_heads_their_layers_are_off(browser, files):
    with served(lambda image: segment(image, with_heads=False), samples=[files / "street.png"]) as server:
        open_page(browser, server)
        browser.find_element("css selector", "#samples button").click()
        wait(browser, lambda: browser.execute_script("return document.body.dataset.shown") == "street.png")
        enabled = [name for name in ("image", "heatmap", "offsets") if find(browser, f"layer-{name}").is_enabled()]
        assert enabled == ["image"]
        assert "probability" not in hover(browser, 30, 35)


def test_a_server_that_has_gone_is_told_of(browser, files):
    with served() as server:
        open_page(browser, server)
    choose(browser, files / "street.png")
    wait(browser, lambda: find(browser, "error").is_displayed())
    assert find(browser, "error").text == "The server does not answer. Is the command still running?"


@pytest.mark.parametrize("width", [420, 800, 1400])
def test_nothing_overlaps_or_runs_out_of_the_page(browser, files, width):
    with served(samples=[files / "street.png"] * 12) as server:
        browser.set_window_size(width, 1000)
        try:
            open_page(browser, server)
            shown(browser, files / "street.png")
            script = """
                const parts = [...document.querySelectorAll("header, #status, #samples, #canvas, #readout, .card")];
                return [document.documentElement.scrollWidth - innerWidth, parts.map((part) => {
                  const box = part.getBoundingClientRect();
                  return [part.id || part.className, box.left, box.top, box.right, box.bottom];
                })];
            """
            excess, boxes = browser.execute_script(script)
        finally:
            browser.set_window_size(1400, 1000)
    assert excess <= 0
    for i, (name, left, top, right, bottom) in enumerate(boxes):
        assert right > left and bottom > top and right <= width + 1, name
        for other, *box in boxes[i + 1 :]:
            apart = right <= box[0] + 1 or box[2] <= left + 1 or bottom <= box[1] + 1 or box[3] <= top + 1
            assert apart, (name, other)
