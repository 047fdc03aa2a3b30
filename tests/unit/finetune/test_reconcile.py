"""Store and bundle brought together, or refused with what mends them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.config import FinetuneConfig
from finetune.reconcile import Reconciled, reconcile
from stunet.bundle import Bundle
from stunet.errors import ConfigError, DataError
from stunet.training.data import open_data
from stunet.training.recipe import NetworkConfig
from stunet.types import Channel

MakeStore = Callable[..., Path]


def reconciled(store: Path, bundle: Bundle, **values: Any) -> Reconciled:
    config = FinetuneConfig(out="o", store=str(store), init=str(bundle.folder), **values)
    return reconcile(config, open_data(config), bundle)


def test_the_plan_of_the_source_holds_and_differences_are_told(
    make_store: MakeStore, bundle: Bundle
) -> None:
    found = reconciled(make_store(), bundle)
    info = found.data.info
    assert (info.patch_size, info.strides) == ((16, 16, 16), bundle.model.strides)
    assert info.channels == (Channel("CH0", "ct", (-900.0, 1200.0), 100.0, 300.0),)
    assert found.data.parts[0].info.channels == info.channels  # what patches are normalised by
    assert found.network == replace(bundle.model, in_channels=1, classes=8)
    told = "\n".join(found.differences)
    assert "patch: store 32 x 32 x 32, bundle 16 x 16 x 16; trained with 16 x 16 x 16" in told
    assert "channels: store CH0 (ct, -1000 to 900, mean 3.5, std 20)" in told
    assert "spacing" not in told and "strides" not in told


def test_a_channel_that_the_bundle_lacks_keeps_its_own_normalisation(
    make_store: MakeStore, bundle: Bundle
) -> None:
    found = reconciled(make_store(channel_count=2), bundle)
    ours = Channel("CH1", "ct", (-1000.0, 900.0), 3.5, 20.0)
    assert found.data.info.channels[1] == ours and found.network.in_channels == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"spacing_mm": (3.0, 3.0, 3.0)},
            r"is at 3 x 3 x 3 mm, the bundle works at 3 x 1.5 x 1.25",
        ),
        (
            {"channels": (Channel("MR", "zscore"),)},
            "channel MR is normalised by zscore, the bundle's CT by ct",
        ),
    ],
)
def test_a_store_that_was_prepared_otherwise_is_told_how_to_prepare_it(
    make_store: MakeStore, bundle: Bundle, changes: dict[str, Any], told: str
) -> None:
    store = make_store(**changes)
    with pytest.raises(DataError, match=told) as refused:
        reconciled(store, bundle)
    assert f"data prepare RAW OUT --plan-from {bundle.folder}'" in str(refused.value)
    assert "\n" not in str(refused.value)
    found = reconciled(store, bundle, plan="target")
    assert getattr(found.data.info, next(iter(changes))) == next(iter(changes.values()))


def test_the_plan_of_the_target_holds_with_the_strides_of_the_weights(
    make_store: MakeStore, bundle: Bundle
) -> None:
    planned = {"patch_size": (30, 32, 33), "spacing_mm": (5.0, 1.0, 1.0)}
    store = make_store(**planned)
    found = reconciled(store, bundle, plan="target")
    assert found.data.info.patch_size == (32, 32, 36)  # what the strides divide
    assert found.network.strides == bundle.model.strides
    other = ((1, 2, 2), (2, 2, 2), *((1, 1, 1),) * 3)
    found = reconciled(store, bundle, plan="target", network=NetworkConfig("", "", other))
    assert found.network.strides == other == found.data.info.strides
    assert any(line.startswith("strides: store 222") for line in found.differences)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"network": NetworkConfig("", "B")}, r"network.size=B: bundle .* is XS; take it out"),
        ({"network": NetworkConfig("", "", ((2, 2, 2),) * 5)}, "which plan=source keeps"),
        (
            {"network": NetworkConfig("", "", ((2, 2, 2),) * 2), "plan": "target"},
            r"network.strides: 2 steps, the weights are of 5; append",
        ),
        ({"patch_size": (16, 16, 18)}, r"patch .* is not divisible by \(4, 4, 4\).*patch_size="),
    ],
)
def test_what_the_weights_do_not_allow_is_refused(
    make_store: MakeStore, bundle: Bundle, values: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        reconciled(make_store(), bundle, **values)
