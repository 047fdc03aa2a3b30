from __future__ import annotations

import json

from stunet.engine.state import TrainState


def test_json_gives_the_record_back() -> None:
    state = TrainState(
        seed=3, config_hash="abc", world=2, zero_stage=1, step=7, recent_losses=(0.1, 1 / 3)
    )
    assert TrainState(**json.loads(json.dumps(state.to_json()))) == state


def test_skips_are_counted_in_all_and_in_a_row() -> None:
    state = TrainState(seed=0, config_hash="")
    for loss in (None, None, 0.5, None):
        if loss is None:
            state = state.after_skipped_step(samples=4)
        else:
            state = state.after_good_step(samples=4, loss=loss, window=2)
    assert (state.step, state.samples_seen) == (4, 16)
    assert (state.skipped_steps, state.skipped_in_a_row) == (3, 1)


def test_the_last_good_losses_are_remembered() -> None:
    state = TrainState(seed=0, config_hash="")
    for loss in (3.0, 2.0, 1.0):
        state = state.after_good_step(samples=4, loss=loss, window=2)
    assert state.after_skipped_step(samples=4).recent_losses == (2.0, 1.0)
