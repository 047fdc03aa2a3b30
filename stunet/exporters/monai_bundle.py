"""A bundle in the layout of MONAI: configs, a TorchScript model, documents; read by MONAI alone.

    configs/metadata.json   channels, labels, patch; MONAI's schema
    configs/inference.json  preprocessing, windows, and back to the scan's grid, in MONAI's terms
    models/model.ts         the network; axes x y z, as MONAI has them
    docs/README.md          the model card, and what differs
    docs/data_license.txt   licences of the training data

The network computes the same numbers there, to the bit. Grids and windows are laid out otherwise by
MONAI, so label maps differ at surfaces; and it holds the logits of all labels on the scan's grid.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stunet.bundle import CARD, Bundle, load_predictor
from stunet.errors import BundleError
from stunet.exporters.tracing import check_free, divisor, example, expected_warnings_silenced
from stunet.io.atomic import (
    atomic_write_json,
    atomic_write_text,
    publish_folder,
    temporary_sibling,
)
from stunet.types import Channel

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
MONAI_VERSION = "1.6.1"  # the one that it was read with
NOTE = """

## In MONAI

`monai.bundle.run(config_file="configs/inference.json", bundle_root=..., datalist=[...])` writes a
label map on each scan's grid. MONAI lays out grids and windows otherwise than `stunet` does: labels
at surfaces differ, and small structures with them.
"""


class XYZ(nn.Module):
    """A network that takes and gives axes x y z."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_bcxyz: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B, K, X, Y, Z)."""
        logits: Tensor = self.network(image_bcxyz.permute(0, 1, 4, 3, 2))
        return logits.permute(0, 1, 4, 3, 2)


def write_monai_bundle(bundle: Bundle, out: Path) -> Path:
    """Write the folder `out`, whole or not at all, and return it.

    Raises:
        BundleError: The place is taken, or the bundle has what MONAI's transforms do not.
    """
    check_free(out, out.exists())
    if bundle.regions:
        raise BundleError(f"export {out}: the labels are regions that may overlap; export to ONNX")
    normalise = _normalise(bundle.preprocessing.channels, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(out)
    try:
        for name in ("configs", "models", "docs"):
            (temporary / name).mkdir(parents=True)
        atomic_write_json(temporary / "configs" / "metadata.json", _metadata(bundle))
        config = _inference(bundle, normalise)
        atomic_write_json(temporary / "configs" / "inference.json", config)
        _write_network(bundle, temporary / "models" / "model.ts")
        card = (bundle.folder / CARD).read_text()
        atomic_write_text(temporary / "docs" / "README.md", card + NOTE)
        licences = "".join(f"{s.name}: {s.licence}\n" for s in bundle.provenance.data)
        atomic_write_text(temporary / "docs" / "data_license.txt", licences)
        publish_folder(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _write_network(bundle: Bundle, path: Path) -> None:
    network = XYZ(load_predictor(bundle).model)
    image = example(bundle).permute(0, 1, 4, 3, 2).contiguous()
    with torch.no_grad(), expected_warnings_silenced():
        traced = torch.jit.trace(network, image, check_trace=False)
        other = example(bundle, sides=3, batch=2).permute(0, 1, 4, 3, 2)
        if not torch.equal(traced(other), network(other)):
            raise BundleError(f"export {path}: the recorded network computes something else")
        torch.jit.save(traced, str(path))


def _normalise(channels: tuple[Channel, ...], out: Path) -> list[dict[str, Any]]:
    """The steps that do what the schemes say."""
    schemes = {channel.scheme for channel in channels}
    values = {(channel.clip, channel.mean, channel.std) for channel in channels}
    if len(schemes) > 1 or (schemes == {"ct"} and len(values) > 1):
        raise BundleError(
            f"export {out}: MONAI's transforms treat all channels alike, these differ: "
            f"{', '.join(f'{c.name} {c.scheme}' for c in channels)}; export to ONNX"
        )
    first = channels[0]
    if first.scheme == "ct":
        assert first.clip is not None and first.mean is not None and first.std is not None
        low, high = first.clip
        ends = {
            "a_min": low,
            "a_max": high,
            "b_min": (low - first.mean) / first.std,
            "b_max": (high - first.mean) / first.std,
        }
        return [{"_target_": "ScaleIntensityRanged", "keys": "image", **ends, "clip": True}]
    if first.scheme == "zscore":
        return [{"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True}]
    if first.scheme == "rescale":
        return [{"_target_": "ScaleIntensityd", "keys": "image", "channel_wise": True}]
    return []


def _inference(bundle: Bundle, normalise: list[dict[str, Any]]) -> dict[str, Any]:
    plan = bundle.preprocessing
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        {
            "_target_": "Spacingd",
            "keys": "image",
            "pixdim": list(plan.spacing_mm[::-1]),
            "mode": 3,  # cubic splines, as ours
            "padding_mode": "nearest",
            "scale_extent": True,
        },
        *normalise,
        {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
    ]
    back: list[dict[str, Any]] = [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_dtype": "$np.uint8" if bundle.model.classes <= 256 else "$np.uint16",
            "separate_folder": False,
        },
    ]
    return {
        "imports": ["$import glob", "$import numpy as np", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network": "$torch.jit.load(@bundle_root + '/models/model.ts', @device).eval()",
        "preprocessing": {"_target_": "Compose", "transforms": steps},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(plan.patch_size[::-1]),
            "overlap": 0.5,
            "mode": "gaussian",
            "padding_mode": "constant",
        },
        "postprocessing": {"_target_": "Compose", "transforms": back},
        "predict": "$lambda scan: {**scan, 'pred': @inferer(scan['image'][None], @network)[0]}",
        "run": [
            "$torch.set_grad_enabled(False)",
            "$[@postprocessing(@predict(@preprocessing({'image': i}))) for i in @datalist]",
        ],
    }


def _metadata(bundle: Bundle) -> dict[str, Any]:
    channels, provenance = bundle.preprocessing.channels, bundle.provenance
    names = {str(value): name for name, value in sorted(bundle.labels.items(), key=lambda i: i[1])}
    shape = [f"{side}*n" for side in divisor(bundle)[::-1]]
    common = {"type": "image", "spatial_shape": shape, "is_patch_data": True}
    image = common | {
        "format": "magnitude",
        "modality": ", ".join(channel.name for channel in channels),
        "num_channels": len(channels),
        "dtype": "float32",
        "value_range": [],
        "channel_def": {str(c): channel.name for c, channel in enumerate(channels)},
    }
    pred = common | {
        "format": "segmentation",
        "num_channels": bundle.model.classes,
        "dtype": "float32",
        "value_range": [],
        "channel_def": names,
    }
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"from the stunet bundle {bundle.sha256}"},
        "monai_version": MONAI_VERSION,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": "5.3"},
        "name": bundle.folder.name,
        "task": f"{bundle.model.name} {bundle.model.size}: {len(bundle.labels) - 1} structures",
        "description": "Written by stunet. See docs/README.md.",
        "authors": "see docs/README.md",
        "copyright": f"licence of the weights: {provenance.licence}",
        "data_source": ", ".join(source.name for source in provenance.data),
        "data_type": "nibabel",
        "image_classes": ", ".join(f"{c.name} ({c.scheme})" for c in channels),
        "label_classes": ", ".join(f"{value} {name}" for value, name in names.items()),
        "pred_classes": "one channel of logits per label",
        "eval_metrics": {
            f"{data} {metric}": value
            for data, values in provenance.metrics.items()
            for metric, value in values.items()
            if value is not None
        },
        "intended_use": "Research. Not a medical device.",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }
