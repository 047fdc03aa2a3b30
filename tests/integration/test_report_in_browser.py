"""The report as a browser shows it: complete, self-contained, and readable on a phone."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from data_tools.ingest import ingest
from data_tools.phantom import PhantomConfig, write_phantom
from finetune.comparison import compare_runs
from finetune.transfer import TransferOptions, transfer
from stunet.bundle import DataSource, Provenance, write_bundle
from stunet.errors import DataError
from stunet.inference.predictor import WindowOptions
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import Channel, Preprocessing, RawDataset

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("chromium and chromium-driver are not installed", allow_module_level=True)

webdriver = pytest.importorskip("selenium.webdriver")

SECTIONS = {
    "report.html": (
        *("summary", "published", "structures", "gallery", "coverage"),
        *("left-out", "method", "provenance"),
    ),
    "comparison.html": ("dataset", "group", "class", "method", "provenance"),
}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
PAPER = {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # A4 in margins
DESKTOP = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}


def random_bundle(folder: Path, labels: dict[str, int], seed: int) -> Path:
    strides = ((2, 2, 2),) * 3 + ((1, 1, 1),) * 2
    model = ModelConfig(size="XS", in_channels=1, classes=len(labels), strides=strides)
    provenance = Provenance(
        licence="Apache-2.0",
        data=(DataSource("phantoms <of> ours", "CC0-1.0", 2, "00"),),
        recipe={"optim": {"lr": 0.01}},
        commit=None,
        step=0,
        metrics={},
        versions={"torch": torch.__version__},
    )
    preprocessing = Preprocessing((8.0, 8.0, 8.0), (32, 32, 32), (Channel("CT", "zscore"),))
    weights = build_model(model, seed=seed).state_dict()
    return write_bundle(folder, model, preprocessing, labels, weights, provenance)


def datasets(folder: Path) -> list[RawDataset]:
    """One that the paper reports on, with a broken case and one without reference; one not."""
    config = PhantomConfig(cases=4, classes=4, shape_zyx=(32, 40, 48), spacing_mm=(8.0, 8.0, 8.0))
    raw = ingest(write_phantom(folder / "raw", config))
    first, second, third, fourth = raw.cases
    broken = folder / "broken.nii.gz"
    broken.write_bytes(b"<script>alert(1)</script>")
    published = replace(
        raw,
        name="FLARE22",
        cases=(first, second, replace(third, images=(str(broken),)), replace(fourth, label=None)),
    )
    long_name = replace(raw, name="a_data_set_with_quite_a_long_name_2024", cases=(third, fourth))
    return [published, long_name]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `report.html` and `comparison.html`."""
    folder = tmp_path_factory.mktemp("pages")
    raw = datasets(folder)
    for seed, run in enumerate(("a", "b")):
        bundle = random_bundle(folder / f"random_{run}", raw[0].labels, seed)
        options = TransferOptions(
            crosswalks=("a_data_set_with_quite_a_long_name_2024=flare22",),
            window=WindowOptions(step=1.0),
        )
        with pytest.raises(DataError, match="1 of 5 cases failed"):
            transfer(bundle, raw, folder / run, options)
    compare_runs(folder / "a", folder / "b", folder, seed=0)
    shutil.copy(folder / "a" / "report.html", folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator["webdriver.Chrome"]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.parametrize("page", sorted(SECTIONS))
@pytest.mark.parametrize("screen", [DESKTOP, PHONE, PAPER], ids=["desktop", "phone", "paper"])
def test_the_page_is_complete_and_fits(page, screen, pages, browser):
    media = "print" if screen is PAPER else "screen"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get((pages / page).as_uri())
    for section in SECTIONS[page]:
        height = browser.execute_script(
            "const s = document.getElementById(arguments[0]); return s ? s.offsetHeight : 0",
            section,
        )
        assert height > 40, section
    too_wide = "const d = document.documentElement; return d.scrollWidth - d.clientWidth"
    assert browser.execute_script("return innerWidth") == screen["width"]
    assert browser.execute_script(too_wide) == 0
    assert browser.get_log("browser") == []
    fetched = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
        ".filter(name => !name.startsWith('data:'))"
    )
    assert fetched == []


def test_every_picture_of_the_report_is_there_and_described(pages, browser):
    browser.get((pages / "report.html").as_uri())
    pictures = browser.execute_script(
        "return [...document.images].map(i => [i.naturalWidth, i.naturalHeight, i.alt, i.src])"
    )
    assert len(pictures) == 3 * 4  # planes times cases: 2 of each data set
    for width, height, alt, source in pictures:
        assert width > 100 and height > 50
        assert "slice of" in alt
        assert source.startswith("data:image/webp")


@pytest.mark.parametrize("page", sorted(SECTIONS))
def test_headings_descend_by_one_and_no_table_lacks_its_headers(page, pages, browser):
    browser.get((pages / page).as_uri())
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    plain = "return document.querySelectorAll('table:not(:has(thead th[scope=col]))').length"
    assert browser.execute_script(plain) == 0


def test_what_was_left_out_is_told_and_foreign_text_stays_text(pages, browser):
    browser.get((pages / "report.html").as_uri())
    left_out = browser.find_element("id", "left-out").text
    assert "failed" in left_out and "has no reference" in left_out
    assert "phantoms <of> ours" in browser.find_element("id", "provenance").text
    assert browser.execute_script("return document.scripts.length") == 0
    published = browser.find_element("id", "published").text
    for value in ("85.39", "88.27", "89.61", "89.87", "paper 50"):
        assert value in published
