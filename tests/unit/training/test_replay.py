"""A step that is replayed has the patches that were trained on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest
import torch
from safetensors.torch import load_file

from pretrain.config import PretrainConfig
from stunet.config import to_yaml
from stunet.data.loader import LoaderConfig
from stunet.engine.json_lines import JsonLines
from stunet.errors import CheckpointError, ConfigError
from stunet.io.manifest import DATASET, DatasetInfo
from stunet.io.store_writer import StoreWriter
from stunet.training.data import open_data, patch_source, training_batches
from stunet.training.replay import replay
from stunet.training.run_folder import CONFIG, RUN
from stunet.types import CaseArrays


@pytest.fixture
def config(
    make_info: Callable[..., DatasetInfo], make_case: Callable[..., CaseArrays], tmp_path: Path
) -> PretrainConfig:
    writer = StoreWriter(tmp_path / "store", replace(make_info(), name="small"))
    writer.finish([writer.write_case(make_case(name, seed=1)) for name in ("a", "b")])
    run = tmp_path / "run"
    run.mkdir()
    config = PretrainConfig(
        out=str(run),
        store=str(tmp_path / "store"),
        global_batch=3,
        patch_size=(16, 16, 16),
        loader=LoaderConfig(workers=0),
    )
    (run / CONFIG).write_text(to_yaml(config))
    (run / RUN).write_text("{}")
    shutil.copy(tmp_path / "store" / DATASET, run)
    return config


def test_images_labels_and_draws_are_those_of_the_step(config: PretrainConfig) -> None:
    run, data = Path(config.out), open_data(config)
    recipe = replace(config, parallel=replace(config.parallel, micro_batch=3))
    with closing(training_batches(data, recipe, start_step=4)) as stream:
        trained = next(stream)
    draws = [patch_source(data, config).describe(sample) for sample in trained.sample_ids]
    with JsonLines(run / "skipped.jsonl", 5) as skipped:
        samples = [{"sample": s, "loss": s / 10} for s in trained.sample_ids]
        skipped.write({"step": 5, "reason": "the loss jumped to 1.4", "samples": samples})

    folder, lines = replay(run, PretrainConfig, 5, (), None)
    made = load_file(folder / "batch.safetensors")
    assert made["sample"].tolist() == [12, 13, 14] == list(trained.sample_ids)
    assert torch.equal(made["image_bcdhw"], trained.image_bcdhw)
    assert torch.equal(made["label_bdhw"], trained.label_bdhw)
    record = json.loads((folder / "samples.json").read_text())
    assert [fact["draw"] for fact in record["samples"]] == json.loads(json.dumps(draws))
    assert record["skipped"]["losses"] == {"12": 1.2, "13": 1.3, "14": 1.4}
    for fact, image, label in zip(
        record["samples"], trained.image_bcdhw, trained.label_bdhw, strict=True
    ):
        assert fact["image"]["max"] == pytest.approx(float(image.max()), rel=1e-6)
        assert fact["sha256"]["image"] == hashlib.sha256(image.numpy().tobytes()).hexdigest()
        assert sum(fact["label_voxels"].values()) == label.numel() == 16**3
    assert lines[0].startswith(f"sample 12 ({trained.case_ids[0]}): ")
    assert matplotlib.image.imread(folder / "sheet.png").ndim == 3


def test_single_patches_by_number(config: PretrainConfig, tmp_path: Path) -> None:
    folder, lines = replay(Path(config.out), PretrainConfig, None, (7, 2), tmp_path / "here")
    assert folder == tmp_path / "here"
    assert load_file(folder / "batch.safetensors")["sample"].tolist() == [7, 2]
    assert [line.split(" (")[0] for line in lines] == ["sample 7", "sample 2"]


@pytest.mark.parametrize(
    ("step", "samples", "told"),
    [
        (None, (), "either a step or --sample"),
        (3, (1,), "either a step or --sample"),
        (0, (), "step 0 is not in 1 to"),
        (None, (-1,), "patch -1 does not exist"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    config: PretrainConfig, step: int | None, samples: tuple[int, ...], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        replay(Path(config.out), PretrainConfig, step, samples, None)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no readable run\.json"):
        replay(tmp_path, PretrainConfig, 1, (), None)
