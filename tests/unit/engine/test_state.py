from __future__ import annotations

import json

from stunet.engine.state import TrainState


def test_json_gives_the_record_back() -> None:
    state = TrainState(seed=3, config_hash="abc", world=2, zero_stage=1, step=7, samples_seen=28)
    assert TrainState(**json.loads(json.dumps(state.to_json()))) == state


def test_skips_are_counted_in_all_and_in_a_row() -> None:
    state = TrainState(seed=0, config_hash="")
    for skipped in (True, True, False, True):
        state = state.after_step(skipped, samples=4)
    assert (state.step, state.samples_seen) == (4, 16)
    assert (state.skipped_steps, state.skipped_in_a_row) == (3, 1)
