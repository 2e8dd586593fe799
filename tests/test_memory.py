"""The memory of a replay buffer is known before it is taken, and so is how much there is."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from stable_baselines3.common.buffers import ReplayBuffer

from sparse_rl.agents.build import learner_defaults, make_model, replay_footprint
from sparse_rl.agents.replay.buffers import ObservedReplayBuffer, RedrawnReplayBuffer
from sparse_rl.agents.replay.dynamic import (
    DynamicObservedReplayBuffer,
    DynamicRedrawnReplayBuffer,
    DynamicReplayBuffer,
)
from sparse_rl.agents.replay.memory import Footprint, available_memory, nbytes, size
from sparse_rl.inputs import InputError
from sparse_rl.training.vec_envs import make_vec_env

GB = 10**9


def hyperparameters(**changes):
    defaults = {key: value for key, value in learner_defaults("sac").items() if value is not None}
    return {**defaults, "n_timesteps": 100, "policy": "MlpPolicy", "replay": "observed", "buffer_size": 1001, **changes}


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize(
    ("env", "changes", "kind"),
    [
        ("Hopper-noise90", {"replay": "redrawn"}, RedrawnReplayBuffer),
        ("Hopper-noise90-permute50", {"replay": "redrawn"}, RedrawnReplayBuffer),
        ("Hopper-noise90", {}, ObservedReplayBuffer),
        ("Hopper-noise90-permute50", {}, ObservedReplayBuffer),
        ("Hopper-noise90", {"n_steps": 3}, DynamicObservedReplayBuffer),
        ("Hopper-noise90", {"n_steps": 3, "replay": "redrawn"}, DynamicRedrawnReplayBuffer),
        ("Hopper-v5", {"dynamic_capacity": {}}, DynamicReplayBuffer),
        ("Hopper-noise90", {"optimize_memory_usage": True}, ReplayBuffer),
        ("Hopper-v5", {}, ReplayBuffer),
        ("Hopper-v5", {"replay_buffer_kwargs": {"handle_timeout_termination": False}}, ReplayBuffer),
    ],
)
def test_the_estimate_is_what_the_buffer_takes(env, changes, kind, n_envs):
    if "optimize_memory_usage" in changes:
        changes = {**changes, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    settings, vec_env = hyperparameters(**changes), make_vec_env(env, n_envs, seed=0)
    footprint = replay_footprint(settings, vec_env)
    buffer = make_model("sac", settings, vec_env, 0, "cpu").replay_buffer
    assert type(buffer) is footprint.kind is kind
    assert footprint.nbytes == nbytes(buffer)
    assert footprint.transitions == buffer.buffer_size * n_envs


@pytest.mark.parametrize("replay", ["redrawn", "observed"])
def test_a_million_transitions_of_humanoid_with_98_percent_noise_take_less_than_4_gb(replay):
    env = make_vec_env("Humanoid-noise98", 1, seed=0)
    footprint = replay_footprint(hyperparameters(replay=replay, buffer_size=1_000_000), env)
    assert env.observation_space.shape == (17_400,)
    assert 2.8 * GB < footprint.nbytes < 2.9 * GB


def test_there_is_no_warning_about_memory_that_a_run_does_not_take(monkeypatch):
    none_left = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=0))
    monkeypatch.setattr("stable_baselines3.common.buffers.psutil", none_left)
    env = make_vec_env("Hopper-noise90", 1, seed=0)
    with pytest.warns(UserWarning, match="not have apparently enough memory"):
        ReplayBuffer(10, env.observation_space, env.action_space)
    make_model("sac", hyperparameters(), env, 0, "cpu")  # warnings are errors here


def test_what_does_not_fit_is_refused_with_what_does():
    footprint = Footprint(ReplayBuffer, 1_000_000, 139 * GB)
    message = (
        r"1,000,000 transitions in the replay buffer need 139.0 GB of memory, but 23.1 GB are available: "
        r"give a --buffer-size of at most 166474\."
    )
    with pytest.raises(InputError, match=message):
        footprint.check(2_000_000, 23_140_000_000)
    Footprint(ReplayBuffer, 166_474, 166_474 * 139_000).check(2_000_000, 23_140_000_000)
    footprint.check(100_000, 23_140_000_000)


def test_sizes_for_people():
    sizes = {188e6: "0.2 GB", 139.2e9: "139.2 GB", 5e7: "0.1 GB", 4.8e6: "4.8 MB", 48e3: "48.0 kB", 0: "0.0 kB"}
    assert {x: size(x) for x in sizes} == sizes


def test_a_description_says_what_becomes_of_the_noise():
    line = Footprint(ObservedReplayBuffer, 1_000_000, 188_000_000).describe("HalfCheetah-noise98", True)
    start, end = line.split(", 0.2 GB ")
    assert start == "replay buffer: 1,000,000 transitions of HalfCheetah-noise98"
    assert end == "(observed noise is regenerated, not stored)"
    assert Footprint(ReplayBuffer, 10, 10**9).describe("Hopper-v5", False).endswith("of Hopper-v5, 1.0 GB")


MEMINFO = "MemTotal: 20000 kB\nMemFree: 3000 kB\nMemAvailable:   10000 kB"


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 10_240_000),
        ({"proc/self/cgroup": "0::/"}, 10_240_000),
        ({"proc/self/cgroup": "0::/a", f"{V2}/a/memory.max": "max", f"{V2}/a/memory.current": 5}, 10_240_000),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                **{f"{V2}/a/memory.max": 9000, f"{V2}/a/memory.current": 4000},
                f"{V2}/a/memory.stat": "anon 100\ninactive_file 1500",
                **{f"{V2}/a/b/memory.max": "max", f"{V2}/a/b/memory.current": 10, f"{V2}/a/b/memory.stat": "anon 1"},
            },
            6500,
        ),
        (
            {
                "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/not/visible/inside\n0::/",
                **{f"{V1}/memory.limit_in_bytes": 8000, f"{V1}/memory.usage_in_bytes": 1000},
                f"{V1}/memory.stat": "inactive_file 1\ntotal_inactive_file 30",
            },
            7030,
        ),
        (
            {
                "proc/self/cgroup": "0::/",
                **{f"{V2}/memory.max": 50, f"{V2}/memory.current": 70, f"{V2}/memory.stat": "anon 70"},
            },
            0,
        ),
    ],
    ids=["no groups", "no limit", "max", "version 2", "version 1", "over the limit"],
)
def test_available_memory_respects_containers(tmp_path, files, expected):
    assert available_memory(write(tmp_path, {"proc/meminfo": MEMINFO, **files})) == expected


def test_available_memory_is_known_everywhere(tmp_path):
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert available_memory(tmp_path) == everything
    assert 0 < available_memory() <= everything
