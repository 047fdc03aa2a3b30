"""A bundle: a folder that holds all that using trained weights takes. Write, read, verify, load.

    model.safetensors   weights; above 5 GB in shards with `model.safetensors.index.json`
    config.json         network, spacing, patch, normalisation, axis order, orientation
    labels.json         structure names and values; regions and what each paints, where there are
    provenance.json     training data and licences, recipe, commit, metrics
    README.md           model card
    SHA256SUMS          checksums of all of these; `sha256sum -c SHA256SUMS` checks them too

A bundle is data: it names no class of ours beyond a registry key, and nothing in it is ever
unpickled. Not for continuing a training: that is the checkpoint of the engine.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from stunet.errors import BundleError, ConfigError
from stunet.inference.model_card import DataSource, Provenance, model_card
from stunet.inference.predictor import Predictor
from stunet.inference.regions import check_regions, label_record, regions_of
from stunet.inference.sliding_window import WindowOptions
from stunet.io.atomic import atomic_write_json, atomic_write_text, publish_folder, temporary_sibling
from stunet.models.spec import ModelConfig, stage_shapes
from stunet.registry import build_model
from stunet.types import Channel, Preprocessing, Region

FORMAT_VERSION = 2  # 2 adds regions, which 1 would take for classes; without any, 1 is written
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, LABELS, PROVENANCE = "config.json", "labels.json", "provenance.json"
CARD, SUMS = "README.md", "SHA256SUMS"
SHARD_BYTES = 5 * 10**9  # the Hub's convention
SHA256_DIGITS = 64
NAMES_SHOWN = 8  # of tensors that do not fit, per kind: an error stays one readable line

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and verified; the weights themselves stay on disk.

    Attributes:
        folder: Where it lies.
        model: The network.
        preprocessing: What a volume goes through before it.
        labels: Structure name to value, background included; values are output channels unless
            there are regions.
        provenance: Where the weights come from.
        sha256: Of `SHA256SUMS`, hence of everything: the identity of the bundle.
        weight_files: Names of the safetensors files.
        regions: What the output channels are where they may overlap.
    """

    folder: Path
    model: ModelConfig
    preprocessing: Preprocessing
    labels: Mapping[str, int]
    provenance: Provenance
    sha256: str
    weight_files: tuple[str, ...]
    regions: tuple[Region, ...] = ()

    @property
    def outputs(self) -> dict[str, int]:
        """What the network tells: name to output channel."""
        named = {region.name: channel for channel, region in enumerate(self.regions)}
        return named or dict(self.labels)


def write_bundle(
    folder: str | Path,
    model: ModelConfig,
    preprocessing: Preprocessing,
    labels: Mapping[str, int],
    state_dict: Mapping[str, Tensor],
    provenance: Provenance,
    regions: Sequence[Region] = (),
) -> Path:
    """Write a bundle, whole or not at all, and return its folder.

    Weights above `SHARD_BYTES` are cut into files of about that size.

    Args:
        folder: Must not exist yet.
        model: The network, strides included.
        preprocessing: Its channels must be as many as the network's.
        labels: Structure name to value, background included; values are output channels unless
            there are regions.
        state_dict: Tensors under the network's own key names, on any device.
        provenance: Where they come from.
        regions: What the output channels are where they may overlap, in order.

    Raises:
        BundleError: The folder exists, or the parts do not fit each other.
    """
    folder = Path(folder)
    if folder.exists():
        raise BundleError(f"bundle {folder}: is already there; remove it or name another folder")
    regions = tuple(regions)
    _check_parts(folder, model, preprocessing, labels, regions)
    _check_fit(folder, model, {name: tuple(t.shape) for name, t in state_dict.items()})
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(folder)
    temporary.mkdir()
    try:
        save_torch_state_dict(dict(state_dict), temporary, max_shard_size=SHARD_BYTES)
        config = {
            "format_version": FORMAT_VERSION if regions else 1,
            "axis_order": "zyx",
            "orientation": "RAS+",
            "model": asdict(model),
            "preprocessing": asdict(preprocessing),
        }
        atomic_write_json(temporary / CONFIG, config)
        atomic_write_json(temporary / LABELS, label_record(labels, regions))
        write_provenance(temporary, provenance)
        card = model_card(folder.name, model, preprocessing, labels, provenance, regions=regions)
        atomic_write_text(temporary / CARD, card)
        seal(temporary)
        publish_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def read_bundle(folder: str | Path) -> Bundle:
    """Read a bundle and verify every byte of it against its checksums.

    Raises:
        BundleError: It is not a folder, lacks a file, is damaged, was written by a newer version,
            or its parts do not fit each other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"bundle {folder}: is not a folder; give the folder of a bundle")
    config = _read_json(folder, CONFIG)
    version = config.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise BundleError(
            f"bundle {folder}: format version {version}, this stunet reads up to {FORMAT_VERSION}; "
            "upgrade stunet"
        )
    sums = _verified_sums(folder)
    weight_files = _weight_files(folder)
    for name in (CONFIG, LABELS, PROVENANCE, CARD, *weight_files):
        if name not in sums:
            raise BundleError(
                f"bundle {folder}: {SUMS} does not list {name}; fetch the bundle again"
            )
    record = {"config": config} | {n: _read_json(folder, n) for n in (LABELS, PROVENANCE)}
    try:
        model, preprocessing, labels, provenance, regions = _parse(record)
    except KeyError as error:
        raise BundleError(f"bundle {folder}: its description lacks {error}") from None
    except (TypeError, ValueError, ConfigError) as error:
        raise BundleError(f"bundle {folder}: its description is malformed: {error}") from None
    _check_parts(folder, model, preprocessing, labels, regions)
    _check_fit(folder, model, _shapes(folder, weight_files))
    identity = sha256_of_file(folder / SUMS)
    return Bundle(folder, model, preprocessing, labels, provenance, identity, weight_files, regions)


def load_weights(bundle: Bundle, device: str = "cpu") -> dict[str, Tensor]:
    """Return the state dict of a bundle on `device`."""
    weights: dict[str, Tensor] = {}
    for name in bundle.weight_files:
        weights |= load_file(bundle.folder / name, device=device)
    return weights


def load_predictor(
    bundle: Bundle | str | Path, device: str = "cpu", window: WindowOptions | None = None
) -> Predictor:
    """Return a ready `Predictor`, with the network in evaluation mode on `device`.

    Raises:
        BundleError: As `read_bundle`.
    """
    if not isinstance(bundle, Bundle):
        bundle = read_bundle(bundle)
    with torch.device("meta"):
        model = build_model(bundle.model)
    model.load_state_dict(load_weights(bundle, device), assign=True)
    model.eval().requires_grad_(False)
    window = window or WindowOptions()
    return Predictor(model, bundle.preprocessing, bundle.labels, device, window, bundle.regions)


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Write a bundle's `provenance.json`; metrics that are not defined become null."""
    atomic_write_json(folder / PROVENANCE, _without_nan(asdict(provenance)))


def seal(folder: Path) -> None:
    """Write the checksums of all files of a bundle that is ready otherwise."""
    sums = {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())}
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    atomic_write_text(folder / SUMS, text)


def parse_sums(text: str, place: str | Path) -> dict[str, str]:
    """The SHA-256 of each file, from the text of `SHA256SUMS` at `place`.

    Raises:
        BundleError: A line is malformed, or a name leads out of the bundle.
    """
    sums = {}
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        if not name or Path(name).name != name or name in (".", "..", SUMS):
            raise BundleError(f"bundle {place}: {name!r} is not a plain file name; do not trust it")
        if len(digest) != SHA256_DIGITS:
            raise BundleError(f"bundle {place}: {SUMS} is malformed; fetch the bundle again")
        sums[name] = digest
    return sums


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Consistency -------------------------------------------------------------------------------------


def _check_parts(
    folder: Path,
    model: ModelConfig,
    preprocessing: Preprocessing,
    labels: Mapping[str, int],
    regions: tuple[Region, ...],
) -> None:
    if len(preprocessing.channels) != model.in_channels:
        raise BundleError(
            f"bundle {folder}: {len(preprocessing.channels)} channel(s) are described, the network "
            f"takes {model.in_channels}; describe each"
        )
    if regions:
        check_regions(folder, model.classes, labels, regions)
    above = max(labels.values(), default=0) + 1 if regions else model.classes
    wrong = {name: value for name, value in labels.items() if not 0 <= value < above}
    if wrong or len(set(labels.values())) < len(labels) or labels.get("background") != 0:
        raise BundleError(
            f"bundle {folder}: labels need background 0 and distinct values below {above}"
            f"{'' if regions else ', the classes of the network'}; got {wrong or dict(labels)}"
        )
    try:
        stage_shapes(preprocessing.patch_size, model.strides)
    except ConfigError as error:
        raise BundleError(f"bundle {folder}: {error}") from None


def _check_fit(folder: Path, model: ModelConfig, found: Shapes) -> None:
    """Raise with the names unless the tensors are exactly those of the network."""
    try:
        with torch.device("meta"):
            network = build_model(model).state_dict()
    except ConfigError as error:
        raise BundleError(f"bundle {folder}: {error}") from None
    wanted = {name: tuple(tensor.shape) for name, tensor in network.items()}
    faults = {
        "missing": [name for name in wanted if name not in found],
        "not of the network": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in wanted.items()
            if name in found and found[name] != shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{kind}: {_some(names)}" for kind, names in faults.items() if names)
        raise BundleError(f"bundle {folder}: weights do not fit {CONFIG}: {told}")


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


# Reading -----------------------------------------------------------------------------------------


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        record = json.loads(_existing(folder, name).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(
            f"bundle {folder}: {name} is not JSON ({error}); fetch it again"
        ) from None
    if not isinstance(record, dict):
        raise BundleError(f"bundle {folder}: {name} holds no JSON object; fetch the bundle again")
    return record


def _existing(folder: Path, name: str) -> Path:
    """A file of the bundle by its plain name: names inside a bundle never lead out of it."""
    if Path(name).name != name:
        raise BundleError(f"bundle {folder}: {name!r} is not a plain file name; do not trust it")
    if not (folder / name).is_file():
        raise BundleError(f"bundle {folder}: {name} is missing; fetch the bundle again")
    return folder / name


def _verified_sums(folder: Path) -> dict[str, str]:
    sums = parse_sums(_existing(folder, SUMS).read_text(), folder)
    for name, digest in sums.items():
        path = _existing(folder, name)
        if sha256_of_file(path) != digest:
            raise BundleError(
                f"bundle {folder}: {name} is not the file that was published"
                f"{_looks_like(path)}; fetch the bundle again"
            )
    return sums


def _looks_like(path: Path) -> str:
    """What downloads often leave in place of a file, as an addition to a message."""
    with path.open("rb") as file:
        head = file.read(256).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        return " but an HTML page, as a failed download leaves it"
    if head.startswith(b"version https://git-lfs"):
        return " but a Git LFS pointer: run 'git lfs pull'"
    return ""


def _weight_files(folder: Path) -> tuple[str, ...]:
    if not (folder / WEIGHTS_INDEX).exists():
        _existing(folder, WEIGHTS)
        return (WEIGHTS,)
    names = set(_read_json(folder, WEIGHTS_INDEX).get("weight_map", {}).values())
    for name in names:
        _existing(folder, name)
    return tuple(sorted(names))


def _shapes(folder: Path, weight_files: tuple[str, ...]) -> Shapes:
    """Name and shape of every tensor, from the files' headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in weight_files:
        try:
            with safe_open(folder / name, framework="pt") as file:
                shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise BundleError(
                f"bundle {folder}: {name} is no safetensors file{_looks_like(folder / name)} "
                f"({error})"
            ) from None
    return shapes


def _parse(
    record: dict[str, Any],
) -> tuple[ModelConfig, Preprocessing, dict[str, int], Provenance, tuple[Region, ...]]:
    config = record["config"]
    if (config["axis_order"], config["orientation"]) != ("zyx", "RAS+"):
        raise ValueError("axis order and orientation are not zyx and RAS+")
    raw = config["preprocessing"]
    channels = [c | {"clip": c["clip"] and tuple(c["clip"])} for c in raw["channels"]]
    preprocessing = Preprocessing(
        spacing_mm=tuple(raw["spacing_mm"]),
        patch_size=tuple(raw["patch_size"]),
        channels=tuple(Channel(**channel) for channel in channels),
    )
    source = record[PROVENANCE]
    data = tuple(DataSource(**entry) for entry in source["data"])
    provenance = Provenance(**(source | {"data": data}))
    labels = {str(name): int(value) for name, value in record[LABELS]["labels"].items()}
    model = ModelConfig(**config["model"])
    return model, preprocessing, labels, provenance, regions_of(record[LABELS])


# Writing -----------------------------------------------------------------------------------------


def _without_nan(value: Any) -> Any:
    """Undefined metrics become null, since JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
