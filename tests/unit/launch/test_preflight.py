"""Faults are planted for real, one at a time; preflight must find each, and nothing else."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launch.launch_config import LaunchConfig
from launch.preflight import plan_for, preflight, render
from launch.preflight_check import THIS_MACHINE, Check, Surroundings, WorldPlan
from launch.preflight_machine import GPU_SHARE
from pretrain.config import PretrainConfig
from stunet.data.loader import LoaderConfig
from stunet.engine.loop import LoopConfig
from stunet.engine.optim import OptimConfig
from stunet.engine.tracking import TrackingConfig
from stunet.io.store_writer import StoreWriter
from stunet.training.data import open_data
from stunet.training.recipe import NetworkConfig, StoreShare, model_config
from stunet.training.run_folder import claim

STRIDES = ((2, 2, 2),) * 4 + ((1, 1, 1),)
TWO_RANKS = WorldPlan(processes=2)


@pytest.fixture
def config(small_store, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        out=str(tmp_path / "runs" / "one"),
        store=str(small_store.root),
        network=NetworkConfig(size="XS", strides=STRIDES),
        loader=LoaderConfig(workers=0),
        global_batch=4,
    )


@pytest.fixture
def other_store(tmp_path: Path, make_info: Callable, make_case: Callable) -> Path:
    """A store with one structure more."""
    root = tmp_path / "other"
    info = make_info()
    writer = StoreWriter(root, replace(info, labels={**info.labels, "pancreas": 3}))
    writer.finish([writer.write_case(make_case("a", seed=1))])
    return root


def failed(
    config: PretrainConfig, plan: WorldPlan = TWO_RANKS, here: Surroundings = THIS_MACHINE
) -> dict[str, Check]:
    checks = {check.name: check for check in preflight(config, plan, here)}
    for check in checks.values():
        assert check.found
        assert check.advice or check.ok is not False, check
    return {name: check for name, check in checks.items() if check.ok is False}


def test_nothing_is_found_where_nothing_is_wrong_and_nothing_is_left(config, tmp_path) -> None:
    assert failed(config) == {}
    assert not (tmp_path / "runs").exists()


def test_a_batch_that_the_ranks_cannot_share(config) -> None:
    found = failed(replace(config, global_batch=3))
    assert set(found) == {"batch"}
    assert "global batch 3" in found["batch"].found


def test_a_shard_that_was_cut_short(config, small_store) -> None:
    shard = max(
        (path for path in (small_store.root / "cases").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 1)
    found = failed(config)
    assert set(found) == {"data files"}
    assert str(shard) in found["data files"].found


def test_a_manifest_that_was_cut_short(config, small_store) -> None:
    manifest = small_store.root / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert set(failed(config)) == {"data"}


def test_a_store_that_is_not_there(config) -> None:
    found = failed(replace(config, store=config.store + "x"))
    assert set(found) == {"data"}
    assert "stunet data prepare" in found["data"].advice


def test_a_store_of_a_newer_format(config, small_store) -> None:
    file = small_store.root / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 99}))
    found = failed(config)
    assert set(found) == {"data"}
    assert found["data"].advice == "upgrade stunet"


def test_labels_other_than_those_the_run_was_started_with(config, other_store) -> None:
    data = open_data(config)
    claim(Path(config.out), config, data.info, data.content, model_config(config, data.info))
    assert failed(config) == {}
    found = failed(replace(config, store=str(other_store)))
    assert set(found) == {"labels", "run"}
    assert "4 structures" in found["labels"].found
    assert "with 3 (differs in pancreas)" in found["labels"].found


def test_data_sets_of_different_label_spaces(config, other_store) -> None:
    both = [StoreShare(config.store), StoreShare(str(other_store))]
    found = failed(replace(config, store="", mixture=both))
    assert set(found) == {"data"}
    assert "'pancreas'" in found["data"].found


def test_values_other_than_those_the_run_was_started_with(config) -> None:
    data = open_data(config)
    claim(Path(config.out), config, data.info, data.content, model_config(config, data.info))
    found = failed(replace(config, optim=OptimConfig(lr=0.5)))
    assert set(found) == {"run"}
    assert "optim.lr: 0.01 -> 0.5" in found["run"].found


def test_a_patch_that_the_network_cannot_take(config) -> None:
    found = failed(replace(config, patch_size=(30, 32, 32)))
    assert set(found) == {"network"}


def test_validation_without_held_out_cases_is_pointed_out(config) -> None:
    """Training would run, but without the Dice that was asked for."""
    checks = preflight(replace(config, loop=LoopConfig(validate_every=5)), TWO_RANKS)
    (data,) = (check for check in checks if check.name == "data")
    assert data.ok is None
    assert "no Dice" in data.advice


def test_a_disk_too_small_for_the_checkpoints(config, tmp_path, mount_disk) -> None:
    mount_disk(tmp_path / "disk", "size=1m")
    found = failed(replace(config, out=str(tmp_path / "disk" / "run")))
    assert set(found) == {"disk"}
    assert found["disk"].found.startswith("1.0 MiB free")


def test_more_checkpoints_than_any_disk_holds(config) -> None:
    found = failed(replace(config, loop=LoopConfig(keep_checkpoints=10**9)))
    assert set(found) == {"disk"}


def test_a_run_folder_on_a_file_system_that_is_read_only(config, tmp_path, mount_disk) -> None:
    mount_disk(tmp_path / "disk", "ro")
    found = failed(replace(config, out=str(tmp_path / "disk" / "run")))
    assert set(found) == {"run folder"}
    assert "Read-only" in found["run folder"].found


def test_a_run_folder_below_a_file(config, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    found = failed(replace(config, out=str(tmp_path / "file" / "run")))
    assert set(found) == {"run folder"}


def test_a_clock_that_is_an_hour_off(config) -> None:
    """The clock is handed in: setting that of a file system takes a second machine."""
    for offset in (3600, -3600):
        here = Surroundings(clock=lambda offset=offset: time.time() + offset)
        found = failed(config, here=here)
        assert set(found) == {"clock"}
        assert "3600 s" in found["clock"].found


def test_another_process_that_trains_in_the_folder(config) -> None:
    run = Path(config.out)
    run.mkdir(parents=True)
    with (run / "metrics.jsonl").open("a") as metrics:
        command = [sys.executable, "-c", "input()"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=metrics) as trainer:
            found = failed(config)
            assert trainer.stdin is not None
            trainer.stdin.close()
    assert set(found) == {"in use"}
    assert f"process {trainer.pid} " in found["in use"].found
    assert failed(config) == {}


def test_a_run_on_another_machine_that_has_just_written(config) -> None:
    run = Path(config.out)
    run.mkdir(parents=True)
    told = {"state": "running", "step": 3, "host": "gpu07"}
    (run / "run.json").write_text(json.dumps(told))
    found = failed(config)
    assert set(found) == {"in use"}
    assert "gpu07" in found["in use"].found
    os.utime(run / "run.json", (0, time.time() - 600))
    assert failed(config) == {}


def test_a_run_that_was_killed_here_can_be_continued_at_once(config) -> None:
    run = Path(config.out)
    run.mkdir(parents=True)
    told = {"state": "running", "step": 3, "host": socket.gethostname()}
    (run / "run.json").write_text(json.dumps(told))
    assert failed(config) == {}


def test_gpus_of_a_cluster_are_told_by_the_launch() -> None:
    launch = LaunchConfig(nodes=2, gpus=8, gpu_gb=40)
    plan = plan_for(launch, local=False)
    assert (plan.world, plan.gpu_memory_bytes, plan.on_gpus) == (16, 40 << 30, True)
    plan = plan_for(LaunchConfig(nodes=3), local=False)
    assert (plan.world, plan.on_gpus) == (6, False)


def test_a_port_that_is_taken(config) -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        found = failed(config, replace(TWO_RANKS, port=port))
        assert set(found) == {"port"}
        assert str(port) in found["port"].found
    assert failed(config, replace(TWO_RANKS, port=port)) == {}


def test_a_low_limit_on_open_files(config) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        found = failed(config)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert set(found) == {"open files"}
    assert found["open files"].found == "limit 512"


def test_a_control_group_with_too_few_cores(config, tmp_path) -> None:
    """Files as cgroups(7) has them, in a folder: writing the real ones may not be allowed."""
    write(tmp_path / "proc/self/cgroup", "0::/slurm/job_7/step_0\n")
    write(tmp_path / "sys/fs/cgroup/slurm/job_7/cpu.max", "25000 100000\n")
    found = failed(config, here=Surroundings(tmp_path))
    assert set(found) == {"cores"}
    assert "on 0.25 cores (limit of the control group)" in found["cores"].found


def test_a_control_group_with_too_little_memory(config, tmp_path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:memory:/job\n0::/\n")
    group = tmp_path / "sys/fs/cgroup/memory/job"
    write(group / "memory.limit_in_bytes", f"{64 << 20}\n")
    write(group / "memory.usage_in_bytes", f"{8 << 20}\n")
    write(group / "memory.stat", f"cache 9\ninactive_file {4 << 20}\n")
    found = failed(config, here=Surroundings(tmp_path))
    assert set(found) == {"memory"}
    assert "60.0 MiB left of the control group's limit" in found["memory"].found


def test_a_gpu_with_too_little_memory(config) -> None:
    plan = WorldPlan(2, 4, gpu_memory_bytes=32 << 20, gpu_name="tiny", local=False)
    wide = replace(config, global_batch=16)
    found = failed(wide, plan)
    assert set(found) == {"memory"}
    assert "32.0 MiB of tiny" in found["memory"].found
    assert failed(wide, replace(plan, gpu_memory_bytes=80 << 30)) == {}


def test_shared_memory_too_small_for_the_workers(config, tmp_path, mount_disk) -> None:
    mount_disk(tmp_path / "dev" / "shm", "size=1m")
    found = failed(replace(config, loader=LoaderConfig(2)), here=Surroundings(tmp_path))
    assert set(found) == {"shared memory"}


def test_a_tracker_that_does_not_answer(config, monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    online = replace(config, loop=LoopConfig(tracking=TrackingConfig(wandb="online")))
    found = failed(online)
    assert set(found) == {"tracker"}
    assert f"127.0.0.1:{port} cannot be reached" in found["tracker"].found


def test_a_tracker_that_does_not_know_us(config, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    online = replace(config, loop=LoopConfig(tracking=TrackingConfig(wandb="online")))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        found = failed(online)
        assert set(found) == {"tracker"}
        assert "no API key" in found["tracker"].found
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
        assert failed(online) == {}


def test_a_torch_without_cuda_beside_a_gpu(config, monkeypatch, tmp_path) -> None:
    """The GPU is a stand-in for `nvidia-smi`; the torch is the one installed."""
    import torch

    if torch.version.cuda is not None:
        pytest.skip("this torch was built for CUDA")
    smi = tmp_path / "bin" / "nvidia-smi"
    write(
        smi,
        '#!/bin/sh\n[ -n "$1" ] && echo "Some GPU, 81559, 550.54" || echo "CUDA Version: 12.4 |"\n',
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}:{os.environ['PATH']}")
    found = failed(config, replace(TWO_RANKS, processes=1))
    assert set(found) == {"gpus"}
    assert "without CUDA" in found["gpus"].found
    found = failed(config)
    assert found["gpus"].found == "2 ranks, 1 GPUs here"
    write(smi, "#!/bin/sh\necho Driver/library version mismatch; exit 18\n")
    assert "version mismatch" in failed(config)["gpus"].found


def test_checkpoints_take_the_bytes_of_their_tensors(config) -> None:
    from launch.preflight_memory import checkpoint_bytes
    from stunet.engine.optim import build_optimizer, create_state, state_keys
    from stunet.registry import build_model

    network = model_config(config, open_data(config).info)
    model = build_model(network)
    optimizer = build_optimizer(model.parameters(), config.optim)
    create_state(optimizer, list(model.parameters()), state_keys(config.optim))
    states = [v for state in optimizer.state.values() for v in state.values()]
    tensors = [*model.parameters(), *states]
    assert checkpoint_bytes(config, network) == sum(t.nbytes for t in tensors)


def test_a_run_that_may_just_fit_is_pointed_out_but_not_refused(config) -> None:
    from launch.preflight_memory import bytes_per_rank

    plan = WorldPlan(processes=2, gpu_memory_bytes=80 << 30, gpu_name="one", local=False)
    data = open_data(config)
    network = model_config(config, data.info)
    needed = bytes_per_rank(config, network, data.info.patch_size, plan)

    def memory(share: float) -> bool | None:
        small = replace(plan, gpu_memory_bytes=round(share * needed / GPU_SHARE))
        return next(c.ok for c in preflight(config, small) if c.name == "memory")

    assert [memory(share) for share in (1.01, 0.99, 0.86, 0.84)] == [True, None, None, False]


def test_the_table_marks_what_failed_and_says_what_to_do() -> None:
    checks = (Check("a", True, "fine"), Check("b", False, "bad", "mend it"), Check("c", None, "?"))
    lines = render(checks).splitlines()
    assert [line[0] for line in lines if line[2] != " "] == [" ", "!", "-"]
    assert lines[2].strip() == "-> mend it"
    coloured = render(checks, colour=True).splitlines()
    assert [line.startswith("\x1b[31m") for line in coloured] == [False, True, True, False]


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
