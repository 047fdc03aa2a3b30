"""The GPUs of this machine, and whether torch was built for them, without importing torch."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path

TIMEOUT_S = 10


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver sees it."""

    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True)
class GpuSoftware:
    """What has to fit together.

    Attributes:
        driver_cuda: The newest CUDA that the driver runs, None without a driver.
        torch: Version of torch, None if it is not installed.
        torch_cuda: The CUDA it was built for, None for a build without.
        nccl: Version of NCCL beside it, None if there is none.
    """

    driver_cuda: str | None
    torch: str | None
    torch_cuda: str | None
    nccl: str | None


def list_gpus() -> tuple[Gpu, ...]:
    """All GPUs that `nvidia-smi` lists.

    Raises:
        OSError: It is there and fails; the message is its own.
    """
    fields = "--query-gpu=name,memory.total,driver_version"
    gpus = []
    for line in _nvidia_smi(fields, "--format=csv,noheader,nounits").splitlines():
        name, mebibytes, driver = (part.strip() for part in line.rsplit(",", 2))
        known = int(mebibytes) << 20 if mebibytes.isdigit() else 0  # "[N/A]" on shared memory
        gpus.append(Gpu(name, known, driver))
    return tuple(gpus)


def gpu_software() -> GpuSoftware:
    """Versions of driver, torch and NCCL.

    Raises:
        OSError: `nvidia-smi` fails.
    """
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", _nvidia_smi())
    nccl = [d.version for d in distributions() if (d.name or "").startswith("nvidia-nccl")]
    return GpuSoftware(
        driver_cuda=cuda[1] if cuda else None,
        torch=_torch_version(),
        torch_cuda=_torch_cuda(),
        nccl=nccl[0] if nccl else None,
    )


def _nvidia_smi(*arguments: str) -> str:
    """Its answer, empty where it is not installed."""
    if shutil.which("nvidia-smi") is None:
        return ""
    try:
        answer = subprocess.run(
            ["nvidia-smi", *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"nvidia-smi gave no answer in {TIMEOUT_S} s") from None
    if answer.returncode != 0:
        said = (answer.stderr or answer.stdout).strip().splitlines() or ["no message"]
        raise OSError(f"nvidia-smi failed: {said[0]}")
    return answer.stdout


def _torch_version() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """What `torch.version.cuda` would say, read from its file."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name("version.py")
    found = re.search(r"^cuda[^=]*=\s*['\"]([\d.]+)['\"]", file.read_text(), re.MULTILINE)
    return found[1] if found else None
