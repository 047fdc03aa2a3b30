"""What a network starts from: structures that bundle and data share, by name or by crosswalk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from finetune.initial import initial_network, output_sources
from stunet.bundle import Bundle, load_weights
from stunet.io.manifest import DatasetInfo
from stunet.registry import build_model


def test_structures_of_one_name_start_from_the_rows_of_the_bundle(
    bundle: Bundle, make_info: Callable[..., DatasetInfo]
) -> None:
    info = make_info()  # liver 1, spleen 2, dot 7; 3 to 6 have no name
    network = replace(bundle.model, classes=8)
    initial = initial_network(network, info, bundle, "", seed=5)
    source, fresh = load_weights(bundle), build_model(network, seed=5).state_dict()
    for name, weight in initial.model.state_dict().items():
        if name.startswith("seg_outputs"):
            rows = torch.cat(
                (source[name][:1], fresh[name][1:2], source[name][1:2], fresh[name][3:])
            )
            assert torch.equal(weight, rows), name
        else:
            assert torch.equal(weight, source[name]), name
    assert initial.structures == {
        "background": ("background",),
        "liver": (),
        "spleen": ("spleen",),
        "dot": (),
    }
    told = "\n".join(initial.summary())
    assert "background <- background, spleen <- spleen" in told and "anew: liver, dot" in told
    assert {"seg_outputs.0.weight", "upsample_layers.0.conv.bias"} <= initial.from_source


def test_a_crosswalk_says_what_names_do_not(
    bundle: Bundle, make_info: Callable[..., DatasetInfo], tmp_path: Path
) -> None:
    file = tmp_path / "walk.yaml"
    file.write_text(
        "stage: transfer\ntitle: mine\nclasses:\n  liver: {union: [spleen, kidney]}\n"
        "  spleen: {not_comparable: another organ}\n"
    )
    sources = output_sources(make_info(), bundle, str(file))
    assert sources == {
        "background": ("background",),
        "liver": ("spleen", "kidney"),
        "spleen": (),
        "dot": (),
    }


def test_regions_match_structures_and_have_no_background(
    bundle: Bundle, make_info: Callable[..., DatasetInfo]
) -> None:
    regions = {"spleen": (2,), "all": (1, 2, 7)}
    info = replace(make_info(), regions=regions, regions_class_order=(2, 1))
    assert output_sources(info, bundle, "") == {"spleen": ("spleen",), "all": ()}
    network = replace(bundle.model, classes=2)
    head = initial_network(network, info, bundle, "", seed=5).model.state_dict()
    source = load_weights(bundle)
    assert torch.equal(head["seg_outputs.4.weight"][0], source["seg_outputs.4.weight"][1])
