"""Preflight before a real run, the list of runs and the page of one after it."""

from __future__ import annotations

import re
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

TINY = (
    *("pretrain/quickstart_phantom", "optim.total_steps=4", "optim.warmup_steps=0"),
    *("global_batch=2", "loop.log_every=2", "loop.validate_every=4", "parallel.micro_batch=1"),
)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


def stunet(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "raw"
    assert not stunet("data", "phantom", raw, "cases=3", "classes=2", "shape_zyx=[40,40,48]").stderr
    prepared = stunet(
        *("data", "prepare", raw, folder / "store", "workers=0", "holdout=1"),
        "plan.patch_size=[32,32,32]",
    )
    assert prepared.returncode == 0, prepared.stderr
    return folder / "store"


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained for four steps."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    trained = stunet("pretrain", *TINY, f"store={store}", f"out={folder}")
    assert trained.returncode == 0, trained.stderr
    return folder


def test_doctor_passes_a_sound_recipe_and_refuses_a_broken_one(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = (f"store={store}", f"out={tmp_path / 'run'}")
    sound = stunet("doctor", *TINY, *places, "processes=2")
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "2 = 2 ranks x 1 patches x 1 accumulated" in sound.stdout
    broken = stunet("doctor", *TINY, *places, "processes=2", "global_batch=3")
    assert broken.returncode == 2
    assert "! batch" in broken.stdout
    with socket.create_server(("", 0)) as server:
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
        taken = stunet("doctor", *TINY, *places, "processes=2")
    assert taken.returncode == 2
    assert "! port" in taken.stdout


@pytest.mark.parametrize("target", [("local",), ("slurm",)])
def test_launch_starts_nothing_that_preflight_refuses(
    target: tuple[str, ...], store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    values = (f"store={store}", f"out={out}", "global_batch=3", "processes=2")
    refused = stunet("launch", *target, "pretrain", *TINY, *values)
    assert refused.returncode == 2
    last = refused.stderr.splitlines()[-1]
    assert last.startswith("stunet: preflight: 1 of ")
    assert "(batch)" in last
    assert "--no-preflight" in last
    assert not out.exists()


def test_a_finished_run_is_listed_with_its_numbers(run: Path) -> None:
    listed = stunet("runs", run.parent)
    assert listed.returncode == 0, listed.stderr
    head, line = listed.stdout.splitlines()[:2]
    cells = dict(zip(head.split(), line.split(), strict=False))
    assert (cells["run"], cells["state"], cells["step"]) == ("tiny", "finished", "4/4")
    assert float(line.split()[-1]) <= 1  # Dice of the validation at step 4


def test_showing_a_run_draws_its_curves_and_writes_its_page(run: Path) -> None:
    shown = stunet("runs", "show", run)
    assert shown.returncode == 0, shown.stderr
    assert "Loss: " in shown.stdout
    page = (run / "report.html").read_text()
    assert "Finished at step 4 of 4" in page
    assert page.count("<polyline") == 4
    assert re.search(r"<code>optim.total_steps</code></dt><dd>4 .*instead of 300", page)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_the_page_fits_a_phone_and_reports_no_error(run: Path) -> None:
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip("chromium and chromium-driver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver")
    assert stunet("runs", "show", run).returncode == 0
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        chrome.get((run / "report.html").as_uri())
        width = chrome.execute_script("return document.documentElement.scrollWidth")
        charts = chrome.execute_script(
            "return [...document.querySelectorAll('.frame svg')]"
            ".map(e => [e.clientWidth, e.clientHeight])"
        )
        assert width == PHONE["width"]
        assert len(charts) == 4
        assert all(wide > 250 and high > 120 for wide, high in charts)
        assert chrome.get_log("browser") == []
    finally:
        chrome.quit()


def test_a_hundred_runs_are_listed_in_a_moment_without_torch(run: Path, tmp_path: Path) -> None:
    lines = (run / "metrics.jsonl").read_text() * 2000  # as long as a run of days
    for number in range(100):
        copy = tmp_path / f"run_{number:02}"
        copy.mkdir()
        for name in ("run.json", "config.yaml"):
            shutil.copy(run / name, copy)
        (copy / "metrics.jsonl").write_text(lines)
    code = (
        "import sys; from launch.cli import app; "
        f"app(['runs', {str(tmp_path)!r}], standalone_mode=False); "
        "print([m for m in ('torch', 'omegaconf') if m in sys.modules], file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr.splitlines()[-1] == "[]"
    assert len(done.stdout.splitlines()) == 101
    assert after.ru_utime - before.ru_utime < 5.0  # 1 s where this was written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs", "absent"], ["absent", "no such folder"]),
        (["runs", "show", "absent"], ["absent", "run.json"]),
        (["runs", "show"], ["show"]),
        (["runs", "a", "b"], ["a b"]),
    ],
)
def test_a_wrong_folder_is_told_in_one_line(arguments: list[str], words: list[str]) -> None:
    told = stunet(*arguments)
    assert told.returncode == 2
    assert len(told.stderr.splitlines()) == 1
    assert all(word in told.stderr for word in words)
