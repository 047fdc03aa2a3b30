"""The verb `estimate`: what a run would need on GPUs that need not be here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli_config import Overrides, RecipeArgument
from stunet.engine.hardware import GPUS
from stunet.errors import ConfigError
from stunet.models.spec import ModelConfig
from stunet.types import Size3

if TYPE_CHECKING:
    from stunet.training.estimate import Estimate, Need
    from stunet.training.recipe import TrainingConfig

GIB = 2**30


def register(root: typer.Typer) -> None:
    """Add the verb to the root command."""
    root.command()(estimate)


def estimate(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    gpu: Annotated[str, typer.Option(help=f"One of {', '.join(GPUS)}.")] = "H200",
    gpus: Annotated[int, typer.Option(min=1, help="How many, one rank each.")] = 1,
    plan: Annotated[
        str, typer.Option(help="Recipe of 'data prepare' with patch and strides, without a store.")
    ] = "data/totalsegmentator",
    classes: Annotated[int, typer.Option(help="Outputs of the network, without a store.")] = 105,
    channels: Annotated[int, typer.Option(help="Image channels, without a store.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, bytes and seconds.")] = False,
) -> None:
    """Tell memory, time and days of a training run beforehand, and what would fit and be faster."""
    from stunet.training.estimate import estimate as of

    if gpu not in GPUS:
        raise ConfigError(f"estimate --gpu {gpu}: is unknown; choose one of {', '.join(GPUS)}")
    config, network, patch = run_of(recipe, overrides or (), plan, classes, channels)
    found = of(config, network, patch, GPUS[gpu], gpus)
    if as_json:
        facts = {"gpu": gpu, "gpus": gpus, "patch_size": patch, "network": asdict(network)}
        typer.echo(json.dumps({**facts, **asdict(found)}, indent=1))
        return
    for line in _lines(found, config, network, patch, f"{gpus} x {gpu}"):
        typer.echo(line)


def run_of(
    recipe: str, values: Sequence[str], plan: str, classes: int, channels: int
) -> tuple[TrainingConfig, ModelConfig, Size3]:
    """Return a run, its network and its patch: of its store, or without one of a plan.

    Args:
        recipe: Of a training.
        values: `key=value` for it.
        plan: Recipe of `data prepare`; this and the next two count where no store is given.
        classes: Outputs of the network.
        channels: Of the image.

    Raises:
        ConfigError: The recipe trains nothing, or its network cannot be known.
    """
    from launch.stages import TRAINING, schema, task
    from stunet.config import load_config, read_recipe
    from stunet.training.data import open_data

    given = read_recipe(recipe)
    stage = given.get("stage")
    if stage not in TRAINING:
        raise ConfigError(f"estimate {recipe}: its stage {stage!r} is none that trains")
    keys = set(given) | {value.partition("=")[0] for value in values}
    stored = bool(keys & {"store", "mixture"})
    absent = [] if "out" in keys else ["out=NONE"]
    absent += [] if stored else ["store=NONE"]
    config: TrainingConfig = load_config(schema(stage), recipe, [*absent, *values])
    if stored:
        found = task(config, open_data(config))
        return config, found.network, config.patch_for(found.data.info)
    if stage != "pretrain":
        raise ConfigError(f"estimate {recipe}: its network depends on the data; give store=STORE")
    planned = read_recipe(plan).get("plan", {})
    if not {"patch_size", "strides"} <= set(planned):
        raise ConfigError(f"estimate --plan {plan}: has no plan.patch_size and plan.strides")
    network = ModelConfig(
        name=config.network.name,
        size=config.network.size,
        in_channels=channels,
        classes=classes,
        strides=config.network.strides or planned["strides"],
    )
    z, y, x = config.patch_size or planned["patch_size"]
    return config, network, (z, y, x)


def _lines(
    found: Estimate, config: TrainingConfig, network: ModelConfig, patch: Size3, where: str
) -> Iterator[str]:
    voxels = "x".join(map(str, patch))
    yield (
        f"network    {network.name} {network.size}, {found.parameters:,} parameters, "
        f"{network.in_channels} channels, {network.classes} outputs, patch {voxels}"
    )
    yield (
        f"work       {found.forward_flops / 1e12:.3f} TFLOP forward per patch; "
        f"{found.step_flops / 1e12:.2f} per step of {config.global_batch} patches, backward twice "
        "the forward; 2 per multiply-add"
    )
    yield f"on         {where}, {found.usable_bytes / GIB:.1f} GiB of each usable"
    yield from _table(found)
    yield f"as given   {_sentence(found.recipe)}"
    if found.best is None:
        yield (
            f"advice     none of {found.tried} choices of micro-batch, ZeRO stage and recompute "
            "fits: take more or larger GPUs, a smaller patch_size, or parallel.offload=cpu"
        )
    elif found.best != found.recipe:
        chosen = found.best
        yield (
            f"advice     parallel.micro_batch={chosen.micro_batch} "
            f"parallel.zero_stage={chosen.zero_stage} speed.recompute={chosen.recompute}"
        )
        yield f"           {_sentence(chosen)}: the fastest of {found.tried}"
    else:
        yield f"advice     none: of {found.tried} choices of them none is faster"
    yield "           Estimates; docs/estimate.md says what they assume and how far off they were."


def _table(found: Estimate) -> Iterator[str]:
    yield "GiB a rank    weights gradients optimizer activations    peak"
    for need in found.stages:
        memory = need.memory
        row = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.peak)
        cells = zip(row, (10, 9, 9, 11, 7), strict=True)
        marks = " <- as given" if need.zero_stage == found.recipe.zero_stage else ""
        yield (
            f"ZeRO {need.zero_stage}     "
            + " ".join(f"{size / GIB:{width}.2f}" for size, width in cells)
            + ("" if need.fits else "  does not fit")
            + marks
        )


def _sentence(need: Need) -> str:
    fits = "fits" if need.fits else "does NOT fit"
    return (
        f"peak {need.memory.peak / GIB:.1f} GiB (in the {need.memory.moment}): {fits}; "
        f"{need.step_s:.3f} s a step, {span(need.days)}"
    )


def span(days: float) -> str:
    """Return a time for people.

    >>> span(2.04), span(0.5)
    ('2.0 days', '12.0 hours')
    """
    return f"{days:.1f} days" if days >= 1 else f"{24 * days:.1f} hours"
