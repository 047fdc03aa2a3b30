"""A bundle's network as an ONNX file, with what using it takes in the file's metadata.

The file maps an image that is already resampled and normalised to logits; sliding windows and the
way back to the scan's grid are the reader's. A file is written only after ONNX Runtime has computed
what the network computes, at another size and batch than the recorded one.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stunet.bundle import Bundle, load_predictor
from stunet.errors import BundleError
from stunet.exporters.tracing import check_free, divisor, example, expected_warnings_silenced
from stunet.io.atomic import temporary_sibling

OPSET = 18
AXES = {0: "batch", 2: "depth", 3: "height", 4: "width"}
LARGEST_BYTES = 2_000_000_000  # of a protobuf file
TOLERANCE = 1e-4  # of the largest logit


def write_onnx(bundle: Bundle, out: Path) -> Path:
    """Write `out` and return it. Input `image` and output `logits` are (B, C, D, H, W), z y x.

    Raises:
        BundleError: The place is taken, the packages of the extra `onnx` are not there, the network
            is too large for one file, or ONNX Runtime computes something else.
    """
    check_free(out, out.exists())
    onnx, runtime = _packages()
    network = load_predictor(bundle).model
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    if size > LARGEST_BYTES:
        raise BundleError(
            f"export {out}: weights of {size} bytes; an ONNX file holds {LARGEST_BYTES}; use a "
            "smaller network"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(out)
    try:
        _record(network, bundle, temporary)
        model = onnx.load(temporary)
        onnx.helper.set_model_props(model, _description(bundle))
        onnx.checker.check_model(model)
        onnx.save(model, temporary)
        image = example(bundle, sides=3, batch=2)
        with torch.no_grad():
            wanted = network(image)
        session = runtime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"image": image.numpy()})
        difference = _difference(torch.from_numpy(logits), wanted)
        if not difference <= TOLERANCE:
            raise BundleError(
                f"export {out}: ONNX Runtime {runtime.__version__} differs by {difference:.1e} of "
                "the largest logit; try another version of it"
            )
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return out


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise BundleError(f"export to ONNX: {error}; run: pip install 'stunet[onnx]'") from None
    return onnx, onnxruntime


def _record(network: torch.nn.Module, bundle: Bundle, path: Path) -> None:
    # A hint about memory layout, for speed on a CPU, has no meaning in ONNX.
    torch.onnx.register_custom_op_symbolic("aten::contiguous", lambda g, x, layout: x, OPSET)
    try:
        with expected_warnings_silenced():
            torch.onnx.export(
                network,
                (example(bundle),),
                str(path),
                dynamo=False,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": AXES, "logits": AXES},
                opset_version=OPSET,
            )
    finally:
        with expected_warnings_silenced():
            torch.onnx.unregister_custom_op_symbolic("aten::contiguous", OPSET)


def _description(bundle: Bundle) -> dict[str, str]:
    return {
        "bundle_sha256": bundle.sha256,
        "licence": bundle.provenance.licence,
        "axis_order": "zyx",
        "orientation": "RAS+",
        "divisor": json.dumps(divisor(bundle)),
        "preprocessing": json.dumps(asdict(bundle.preprocessing)),
        "outputs": json.dumps(bundle.outputs, ensure_ascii=False),
        "overlapping": json.dumps(bool(bundle.regions)),
    }


def _difference(logits: Tensor, wanted: Tensor) -> float:
    if logits.shape != wanted.shape:
        return float("inf")
    return float((logits - wanted).abs().max() / wanted.abs().max())
