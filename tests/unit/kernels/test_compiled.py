"""Kernels compile to machine code for GPUs without one at hand, and keep to their registers."""

import importlib
import re
from pathlib import Path

import pytest

CLASSES, VOXELS = 128, 32  # 105 classes, padded
TYPES = {"label_ptr": "*i16", "owner_ptr": "*i32"} | dict.fromkeys(
    ("slope_ptr", "gain_ptr", "ce_weight_ptr"), "*fp64"
)
FEATURES = {
    "logits_ptr", "gradient_ptr", "x_ptr", "y_ptr", "shortcut_ptr", "upstream_ptr",
    "x_gradient_ptr", "shortcut_gradient_ptr",
}  # fmt: skip
KERNELS = {
    "dice_ce": ("_sum_classes", "_write_gradient"),
    "norm_act": ("_sum_values", "_normalise", "_sum_gradients", "_normalise_gradient"),
}


def parameter_type(name: str) -> str:
    if name in FEATURES:
        return "*bf16"
    if name.endswith("_ptr"):
        return TYPES.get(name, "*fp32")
    return "fp32" if name in ("eps", "slope") else "i64" if name.endswith("stride") else "i32"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in KERNELS.items() for name in names]
)
def test_kernel_compiles(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # the default, and silences a warning
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {
        "IGNORE": True, "PARTIAL": True, "ADD": True, "DTYPE": triton.language.float32,
        "CLASSES": CLASSES, "VOXELS": VOXELS, "SPLITS": 16, "BLOCK": 2048, "voxel_stride": 1,
    }  # fmt: skip
    kernel = getattr(importlib.import_module(f"stunet.kernels.{module}"), name)
    names = kernel.arg_names
    known = {n: constants[n] for n in names if n in constants}
    signature = {n: "constexpr" if n in known else parameter_type(n) for n in names}
    source = ASTSource(kernel, signature, {(names.index(n),): v for n, v in known.items()})
    warps = 8 if module == "dice_ce" else 4
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert made.asm["cubin"]
    assert re.search(r"\.target sm_90", made.asm["ptx"])
