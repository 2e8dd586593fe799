"""Saved agents: what is loaded acts as what was saved, in our own form and from Stable-Baselines3's zip files."""

import json
import os
import warnings
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.policies import ActorCriticPolicy

from sparse_rl.agents import SAC, TD3, load_agent, safe_load, save_agent, saved
from sparse_rl.agents.classes import POLICY_CLASSES
from sparse_rl.agents.saved import CONFIG, MODEL
from sparse_rl.agents.spaces import describe_space, make_space
from sparse_rl.nn import SMETAdam, sparse_layers
from sparse_rl.sb3 import SparseSACPolicy, SparseTD3Policy, sparse_policy
from sparse_rl.sb3.networks import networks_of
from sparse_rl.storage import StorageError, load_tensors

SMALL = {"net_arch": [8, 8]}
SPARSE = {**SMALL, "sparsity": 0.5, "optimizer_class": SMETAdam, "optimizer_kwargs": {"warmup_steps": 10}}
AGENTS: list[tuple[type[BaseAlgorithm], Any, Any, dict[str, Any]]] = [
    (SAC, SparseSACPolicy, "InvertedPendulum-noise90", {"buffer_size": 1, "policy_kwargs": SPARSE}),
    (TD3, SparseTD3Policy, "Pendulum-v1", {"buffer_size": 1, "policy_kwargs": {**SMALL, "lambdas": [2]}}),
    (sb3.SAC, "MlpPolicy", "Pendulum-v1", {"buffer_size": 1, "policy_kwargs": SMALL, "ent_coef": 0.1}),
    (sb3.TD3, "MlpPolicy", "Pendulum-v1", {"buffer_size": 1, "policy_kwargs": {"activation_fn": torch.nn.Tanh}}),
    (sb3.DDPG, "MlpPolicy", "Pendulum-v1", {"buffer_size": 1, "policy_kwargs": SMALL}),
    (sb3.DQN, "MlpPolicy", "CartPole-v1", {"buffer_size": 1, "policy_kwargs": SMALL}),
    (sb3.PPO, "MlpPolicy", "CartPole-v1", {"n_steps": 64, "clip_range": 0.3}),
    (sb3.PPO, "CnnPolicy", FakeImageEnv, {"n_steps": 64, "policy_kwargs": {"net_arch": [4]}}),
    (sb3.PPO, "CnnPolicy", FakeImageEnv, {"policy_kwargs": {"net_arch": [4], "share_features_extractor": False}}),
    (sb3.A2C, "MlpPolicy", "Pendulum-v1", {"use_sde": True}),
    (sb3.PPO, sparse_policy(ActorCriticPolicy), "CartPole-v1", {"n_steps": 64, "policy_kwargs": {"sparsity": 0.5}}),
]
if find_spec("sb3_contrib"):
    from sb3_contrib import TQC

    AGENTS.append((TQC, "MlpPolicy", "Pendulum-v1", {"buffer_size": 1, "policy_kwargs": SMALL}))


@pytest.fixture(params=AGENTS, ids=lambda agent: f"{agent[0].__module__.partition('.')[0]}.{agent[0].__name__}")
def model(request: pytest.FixtureRequest) -> BaseAlgorithm:
    algorithm, policy, env, arguments = request.param
    # A copy: Stable-Baselines3 writes into the dictionary that it is given.
    model: BaseAlgorithm = algorithm(
        policy, env if isinstance(env, str) else env(), device="cpu", **deepcopy(arguments)
    )
    model.num_timesteps = 7
    return model


def actions(model: BaseAlgorithm) -> np.ndarray[Any, Any]:
    model.observation_space.seed(1)
    observations = np.stack([model.observation_space.sample() for _ in range(4)])
    return model.predict(observations, deterministic=True)[0]


def test_our_form(model: BaseAlgorithm, tmp_path: Path) -> None:
    save_agent(model, tmp_path / "agent")
    loaded = load_agent(tmp_path / "agent")
    assert type(loaded) is type(model)
    assert type(loaded.policy) is type(model.policy)
    assert loaded.num_timesteps == 7
    assert np.array_equal(actions(loaded), actions(model))
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(loaded.policy.state_dict()[name], tensor)
    save_agent(loaded, tmp_path / "again")
    stored = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("agent", "again")]
    assert stored[0] == stored[1]


def test_an_agent_that_acts_only(model: BaseAlgorithm, tmp_path: Path) -> None:
    """It acts to the bit as the whole agent; nothing of it can learn, and saving it again does not invent critics."""
    save_agent(model, tmp_path / "whole")
    save_agent(model, tmp_path / "agent", acting_only=True)
    whole, small = ((tmp_path / folder / MODEL).stat().st_size for folder in ("whole", "agent"))
    assert small < whole
    if not getattr(model.policy, "share_features_extractor", True):
        assert not any("vf_features_extractor" in name for name in load_tensors(tmp_path / "agent" / MODEL)[0])
    loaded = load_agent(tmp_path / "agent")
    assert type(loaded) is type(model)
    assert loaded.num_timesteps == 7
    assert np.array_equal(actions(loaded), actions(model))
    assert set(networks_of(loaded.policy)) <= {"actor", "q_net"}
    save_agent(loaded, tmp_path / "again")
    for file in (MODEL, CONFIG):
        assert (tmp_path / "agent" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    with pytest.raises(StorageError, match=r"saved to act only.* cannot go on learning\. Leave out env"):
        load_agent(tmp_path / "agent", env=model.get_env())


@pytest.mark.parametrize("algorithm", [sb3.SAC, sb3.PPO])
def test_what_is_explored_depends_on_what_was_learnt(algorithm: type[BaseAlgorithm], tmp_path: Path) -> None:
    """With gSDE the noise is drawn from a learnt scale, and not from that of a new agent."""
    room = {"buffer_size": 1} if algorithm is sb3.SAC else {"n_steps": 64}
    model = algorithm("MlpPolicy", "Pendulum-v1", use_sde=True, policy_kwargs=dict(SMALL), device="cpu", **room)
    policy = model.policy.actor if algorithm is sb3.SAC else model.policy
    with torch.no_grad():
        policy.log_std.fill_(-30.0)
    save_agent(model, tmp_path / "agent")
    model.save(tmp_path / "agent.zip")
    observation = np.ones((1, 3), np.float32)
    for loaded in (load_agent(tmp_path / "agent"), safe_load(tmp_path / "agent.zip")):
        drawn, mean = (loaded.predict(observation, deterministic=each)[0] for each in (False, True))
        np.testing.assert_allclose(drawn, mean, atol=1e-6)


def test_chance_is_kept(tmp_path: Path) -> None:
    model = sb3.DQN("MlpPolicy", "CartPole-v1", buffer_size=1, policy_kwargs=dict(SMALL), device="cpu")
    model.exploration_rate = 0.3
    save_agent(model, tmp_path / "agent")
    model.save(tmp_path / "agent.zip")
    for loaded in (load_agent(tmp_path / "agent"), safe_load(tmp_path / "agent.zip")):
        assert loaded.exploration_rate == 0.3
        save_agent(loaded, tmp_path / "again")
        assert load_agent(tmp_path / "again").exploration_rate == 0.3


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_an_agent_that_acts_only_says_why_it_does_not_learn(algorithm: type[SAC], tmp_path: Path) -> None:
    policy = SparseSACPolicy if algorithm is SAC else SparseTD3Policy
    model = algorithm(policy, "Pendulum-v1", buffer_size=1, policy_kwargs=dict(SMALL))
    save_agent(model, tmp_path, acting_only=True)
    loaded = load_agent(tmp_path)
    loaded.set_env(model.get_env())
    with pytest.raises(ValueError, match="saved to act only"):
        loaded.learn(1)
    for use in (
        lambda: loaded.critic(torch.ones(1, 3), torch.ones(1, 1)),
        lambda: loaded.critic_target.q_networks,
        lambda: loaded.policy.critic.set_training_mode(True),
        lambda: loaded.save(tmp_path / "agent.zip"),
    ):
        with pytest.raises(AttributeError, match="saved to act only"):
            use()


@pytest.mark.parametrize("activation", POLICY_CLASSES["activation_fn"].values())
def test_every_activation_that_can_be_named_stands_between_two_layers(activation: type[torch.nn.Module]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Softmax and its kin want to be told a dimension
        assert activation()(torch.ones(3, 4)).shape == (3, 4)


def test_an_agent_is_there_whenever_saving_another_one_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former one, until the new one is complete, and never the description of one with the tensors of the other."""
    tanh, relu = (
        sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, policy_kwargs={"activation_fn": each, "net_arch": [8]})
        for each in (torch.nn.Tanh, torch.nn.ReLU)
    )
    (tmp_path / "notes.txt").write_text("something else")
    replace, left = os.replace, 0

    def cut_off(*paths: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        replace(*paths)

    for moves in range(6):
        save_agent(tanh, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {CONFIG, MODEL, "notes.txt"}
        left = moves
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", cut_off)
            with pytest.raises(KeyboardInterrupt):
                save_agent(relu, tmp_path)
        where = tmp_path
        if not (tmp_path / MODEL).exists():
            with pytest.raises(FileNotFoundError, match=r"which lacks model\.safetensors.* In it there are .*\.former"):
                load_agent(tmp_path)
            where = tmp_path / ".former"
        assert load_agent(where).policy_kwargs["activation_fn"] is torch.nn.Tanh
        assert torch.equal(parameters(load_agent(where)), parameters(tanh))
    save_agent(relu, tmp_path)
    assert load_agent(tmp_path).policy_kwargs["activation_fn"] is torch.nn.ReLU
    assert torch.equal(parameters(load_agent(tmp_path)), parameters(relu))


def parameters(model: BaseAlgorithm) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in model.policy.parameters()])


def test_an_agent_stays_if_there_is_no_room_for_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    former = sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64)
    save_agent(former, tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(saved, "save_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        save_agent(sb3.PPO("MlpPolicy", "Acrobot-v1", n_steps=64), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_zip_files(model: BaseAlgorithm, tmp_path: Path) -> None:
    model.save(tmp_path / "agent.zip")
    loaded = safe_load(tmp_path / "agent.zip", type(model))
    assert type(loaded) is type(model)
    assert loaded.num_timesteps == 7
    assert np.array_equal(actions(loaded), actions(model))
    # Which algorithm it is need not be said, but ours look like Stable-Baselines3's, and DDPG is a TD3.
    guess = safe_load(tmp_path / "agent.zip")
    assert type(guess).__name__ == {"DDPG": "TD3"}.get(type(model).__name__, type(model).__name__)
    assert np.allclose(actions(guess), actions(model), atol=1e-5)


@pytest.mark.parametrize("form", ["ours", "zip"])
def test_a_loaded_agent_goes_on_learning(tmp_path: Path, form: str) -> None:
    model = sb3.SAC(
        SparseSACPolicy, "Pendulum-v1", buffer_size=100, learning_starts=10, batch_size=4, policy_kwargs=dict(SPARSE)
    )
    model.learn(20)
    save_agent(model, tmp_path)
    model.save(tmp_path / "agent.zip")
    where = {"env": "Pendulum-v1", "gamma": 0.5}
    loaded = load_agent(tmp_path, **where) if form == "ours" else safe_load(tmp_path / "agent.zip", **where)
    assert isinstance(loaded, sb3.SAC)
    assert (loaded.batch_size, loaded.buffer_size, loaded.gamma) == (4, 100, 0.5)
    assert loaded.log_ent_coef is not None
    assert torch.equal(loaded.log_ent_coef, model.log_ent_coef)
    before = next(iter(sparse_layers(loaded.policy).values())).values.clone()
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 40
    assert not torch.equal(before, next(iter(sparse_layers(loaded.policy).values())).values)


def test_layers_may_have_changed_their_size(tmp_path: Path) -> None:
    """A method that prunes or grows leaves another number of weights than the configuration starts with."""
    model = SAC(SparseSACPolicy, "Pendulum-v1", buffer_size=1, policy_kwargs=dict(SPARSE))
    other = SAC(SparseSACPolicy, "Pendulum-v1", buffer_size=1, policy_kwargs={**SPARSE, "sparsity": 0.9})
    model.policy.load_state_dict(other.policy.state_dict())
    save_agent(model, tmp_path)
    assert np.array_equal(actions(load_agent(tmp_path)), actions(other))


@pytest.mark.parametrize(("arguments", "optimizer"), [({"use_rms_prop": False}, "Adam"), ({}, "RMSprop")])
def test_a2c_keeps_its_optimizer(arguments: dict[str, Any], optimizer: str, tmp_path: Path) -> None:
    agent = sb3.A2C("MlpPolicy", "Pendulum-v1", device="cpu", **arguments)
    save_agent(agent, tmp_path / "agent")
    agent.save(tmp_path / "agent.zip")
    env = agent.get_env()
    for again in (load_agent(tmp_path / "agent", env), safe_load(tmp_path / "agent.zip", env=env)):
        assert type(again.policy.optimizer).__name__ == optimizer


def test_a_schedule_is_described_by_how_it_begins(tmp_path: Path) -> None:
    save_agent(sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, learning_rate=lambda left: 0.01 * left), tmp_path)
    assert load_agent(tmp_path).learning_rate == 0.01


@pytest.mark.parametrize(
    ("algorithm", "policy_kwargs", "message"),
    [
        (type("Own", (sb3.PPO,), {}), {}, "There is no description for agents of <class '.*Own'>"),
        (sb3.PPO, {"activation_fn": type("Own", (torch.nn.ReLU,), {})}, "Unknown activation_fn 'Own'"),
        (sb3.PPO, {"optimizer_kwargs": {"weight_decay": np.zeros(())}}, "optimizer_kwargs is array"),
    ],
)
def test_what_cannot_be_described(
    tmp_path: Path, algorithm: type[sb3.PPO], policy_kwargs: dict[str, Any], message: str
) -> None:
    model = algorithm("MlpPolicy", "CartPole-v1", n_steps=64, policy_kwargs=policy_kwargs)
    with pytest.raises(ValueError, match=message):
        save_agent(model, tmp_path / "agent")
    assert not (tmp_path / "agent" / CONFIG).exists()


def test_paths_that_lead_to_no_agent(tmp_path: Path) -> None:
    model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=1, policy_kwargs=dict(SMALL))
    save_agent(model, tmp_path / "best_model.agent")
    model.save(tmp_path / "best_model.zip")
    assert type(safe_load(tmp_path / "best_model")) is sb3.SAC  # as SAC.load() understands it
    agent = repr(str(tmp_path / "best_model.agent"))
    expected = r": expected a folder with model\.safetensors and config\.json"
    for path, message in (
        (tmp_path / "best_model", f"which does not exist{expected}.* Beside it there are {agent}"),
        (tmp_path / "elsewhere" / "agent", f"which does not exist{expected}"),
        (tmp_path / "best_model.zip", f"which is a file{expected}.* is read by safe_load"),
        (tmp_path, rf"which lacks model\.safetensors and config\.json{expected}.* In it there are {agent}"),
    ):
        with pytest.raises(FileNotFoundError, match=f"There is no agent in {str(path)!r}, {message}"):
            load_agent(path)
    for path, message in (
        (tmp_path / "x.zip", r"There is no file '.*x\.zip': expected a zip file"),
        (tmp_path / "best_model.agent", r"is a folder.*load_agent reads it"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            safe_load(path)
    (tmp_path / "best_model.agent" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"which lacks model\.safetensors: expected"):
        load_agent(tmp_path / "best_model.agent")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (17,), np.float64),
        spaces.Box(np.array([-1, -np.inf], np.float32), np.array([0.1, np.inf], np.float32)),
        spaces.Box(0, 255, (3, 4, 4), np.uint8),
        spaces.Box(-1, 1, (), np.float32),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-1, 1, (2,))}),
    ],
    ids=str,
)
def test_spaces_come_back(space: spaces.Space[Any]) -> None:
    assert make_space(describe_space(space), "here") == space


def test_arguments_that_are_not_described_are_the_defaults(tmp_path: Path) -> None:
    save_agent(SAC(SparseSACPolicy, "Pendulum-v1", buffer_size=5, policy_kwargs=dict(SMALL)), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, "arguments": {}}))
    model = load_agent(tmp_path)
    assert isinstance(model, SAC)
    assert (model.buffer_size, model.gamma) == (1_000_000, 0.99)
