"""The network alone in the form that the Hub's own tools know: `PyTorchModelHubMixin`.

For people who want a module and no pipeline. `from_pretrained` takes the repository of any bundle.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin, save_torch_state_dict, snapshot_download
from safetensors.torch import load_file
from torch import Tensor, nn

from stunet.errors import BundleError
from stunet.models.spec import ModelConfig
from stunet.registry import build_model

WEIGHT_FILES = "model*.safetensors"


def _read_config(values: dict[str, Any]) -> ModelConfig:
    return ModelConfig(**values)


class HubNetwork(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="stunet",
    pipeline_tag="image-segmentation",
    coders={ModelConfig: (asdict, _read_config)},
):
    """A network with `from_pretrained`, `save_pretrained` and `push_to_hub`.

    Args:
        model: What to build; of a bundle it is the `model` of its `config.json`.
    """

    def __init__(self, model: ModelConfig | dict[str, Any]) -> None:
        super().__init__()
        self.network = build_model(ModelConfig(**model) if isinstance(model, dict) else model)

    def forward(self, image_bcdhw: Tensor) -> Tensor | list[Tensor]:
        """As the network's own."""
        logits: Tensor | list[Tensor] = self.network(image_bcdhw)
        return logits

    def _save_pretrained(self, save_directory: Path) -> None:
        save_torch_state_dict(self.network.state_dict(), save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        model: ModelConfig | dict[str, Any] | None = None,
        strict: bool = True,
        **download: Any,
    ) -> Self:
        """Read a bundle's or our own weights; every tensor must be there and fit."""
        folder = Path(model_id)
        if not folder.is_dir():
            patterns = ["config.json", WEIGHT_FILES]
            folder = Path(snapshot_download(model_id, allow_patterns=patterns, **download))
        if model is None:
            raise BundleError(
                f"{model_id}: its config.json names no 'model'; it is no stunet model"
            )
        loaded = cls(model)
        weights: dict[str, Tensor] = {}
        for file in sorted(folder.glob(WEIGHT_FILES)):
            weights |= load_file(file, device=map_location)
        loaded.network.load_state_dict(weights, strict=strict)
        return loaded.eval()
