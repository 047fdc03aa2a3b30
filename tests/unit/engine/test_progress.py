from __future__ import annotations

import pytest

from stunet.engine.progress import progress


def test_plain_lines_only_when_there_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(total_steps=10, first_step=0) as report:
        report(1, {}, "")
        report(2, {"loss": 0.123456, "lr": 0.01}, "limited by data")
    assert capsys.readouterr().out == "step 2/10  loss 0.1235  lr 0.01\nlimited by data\n"


def test_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the stream for a terminal
    with progress(total_steps=10, first_step=4) as report:
        report(5, {"loss": 0.5}, "limited by data")
        report(6, {}, "")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "6/10" in captured.err
    assert "loss 0.5" in captured.err
    assert "limited by data" in captured.err
