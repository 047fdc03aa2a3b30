"""One process; `tests/distributed` asks two."""

from __future__ import annotations

import pytest

from stunet.engine import distributed
from stunet.errors import CheckpointError, DataError


def test_alone_every_answer_is_ones_own() -> None:
    distributed.start()
    distributed.start()  # harmless
    assert (distributed.rank(), distributed.world(), distributed.is_main()) == (0, 1, True)
    assert distributed.on_any_rank([True, False]) == [True, False]
    assert distributed.gather_numbers([1.5, -2.0]) == [[1.5, -2.0]]
    assert distributed.gather_text("a") == ["a"]
    assert distributed.broadcast_text("ä") == "ä"
    assert distributed.run_on_main(lambda: "done") == "done"


@pytest.mark.parametrize("error", [DataError("no space"), OSError("no space")])
def test_what_rank_0_cannot_do_is_said(error: Exception) -> None:
    def fail() -> str:
        raise error

    with pytest.raises(CheckpointError, match="no space") as caught:
        distributed.run_on_main(fail)
    assert caught.value.__cause__ is error
