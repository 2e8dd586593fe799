"""Agents by the names of their algorithms, in Python: what ``train.py`` would train, no more and no less."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from comparing import curves_of, run
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

import sparse_rl.agents
import sparse_rl.training
from sparse_rl.agents import ObservedReplayBuffer, RedrawnReplayBuffer, load_agent
from sparse_rl.inputs import InputError
from sparse_rl.sb3 import ScreeningCallback, TopologyCallback
from sparse_rl.sb3.callbacks import online_layers
from sparse_rl.topology import SET, RigL
from sparse_rl.training import make_agent

SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [16, 16]}, "buffer_size": 200, "learning_starts": 30}
ENV = "Pendulum-v1-noise80"


def test_it_learns_as_train_py_does_to_the_bit(tmp_path: Path) -> None:
    words = (
        f"--algo anf-sac --env {ENV} --seed 3 -n 90 --eval-freq -1 --update-interval 10 "
        "-params policy_kwargs.net_arch:[16,16] buffer_size:200 learning_starts:30"
    )
    folder = run(words, tmp_path)
    trained = load_agent(folder / f"{ENV}.agent").policy.state_dict()
    model, callbacks = make_agent("anf-sac", ENV, seed=3, n_timesteps=90, method={"update_interval": 10}, **SMALL)
    model.learn(90, callbacks)
    mine = model.policy.state_dict()
    assert isinstance(callbacks[0], TopologyCallback)
    assert callbacks[0].updates == 5
    assert curves_of(folder)["sparsity/updates"][-1] == (90, 5)  # also where no evaluation writes what came last
    assert mine.keys() == trained.keys()
    assert all(th.equal(mine[name], trained[name]) for name in mine)


@pytest.mark.parametrize(
    ("algo", "kinds"),
    [
        ("sac", []),
        ("anf-td3", [TopologyCallback]),
        ("screened-sac", [ScreeningCallback, TopologyCallback]),
        ("rlx2-sac", ["MultiStepCallback", "DynamicCapacityCallback", "TopologyCallback"]),
    ],
)
def test_callbacks_are_those_of_the_recipe(algo: str, kinds: list[Any]) -> None:
    model, callbacks = make_agent(algo, ENV, seed=0, **{**SMALL, "buffer_size": 200_000, "learning_starts": 100})
    names = [kind if isinstance(kind, str) else kind.__name__ for kind in kinds]
    assert [type(callback).__name__ for callback in callbacks] == names
    assert isinstance(model, OffPolicyAlgorithm)
    assert isinstance(model.replay_buffer, RedrawnReplayBuffer)


def test_recipes_can_be_changed() -> None:
    model, (callback,) = make_agent("anf-sac", ENV, replay="observed", sparsity=0.5, gamma=0.9, n_envs=2, **SMALL)
    assert isinstance(callback, TopologyCallback)
    assert isinstance(callback.method, SET)
    assert (model.gamma, model.n_envs) == (0.9, 2)
    assert isinstance(model, OffPolicyAlgorithm)
    assert isinstance(model.replay_buffer, ObservedReplayBuffer)
    first = model.policy.actor.latent_pi[0]  # type: ignore[union-attr, index]
    assert first.values.numel() == round(0.5 * 15 * 16)
    assert model.seed is not None


def test_times_that_are_fractions_are_those_of_the_run_that_is_given() -> None:
    _, (callback,) = make_agent("rigl-sac", ENV, n_timesteps=10_000, **SMALL)
    assert isinstance(callback, TopologyCallback)
    assert isinstance(callback.method, RigL)
    assert callback.method.stop == round(0.8 * (10_000 - 30))


def test_what_the_command_line_notes_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="learning_starts reduced from 5000 to 400") as caught:
        make_agent(
            "screened-sac", ENV, n_timesteps=800, **{key: SMALL[key] for key in SMALL if key != "learning_starts"}
        )
    assert [warning.filename for warning in caught] == [__file__]  # it points at the caller


def train(algo: str, steps: int, **settings: Any) -> tuple[BaseAlgorithm, TopologyCallback, list[str]]:
    """Train a small agent from its tenth step on, and give it with what it was warned of before."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small = SMALL | {"learning_starts": 10, "batch_size": 4}
        model, (callback,) = make_agent(algo, ENV, n_timesteps=steps, sparsity=0.5, **settings, **small)
    model.learn(steps, callback)
    assert isinstance(callback, TopologyCallback)
    return model, callback, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("steps", range(20, 27))
@pytest.mark.parametrize(
    ("algo", "name", "delay"), [("anf-td3", "set", 2), *(("rigl-td3", "rigl", delay) for delay in (1, 2, 5))]
)
def test_it_warns_of_updates_that_do_not_come_and_of_no_others(algo: str, name: str, delay: int, steps: int) -> None:
    _, callback, notes = train(algo, steps, policy_delay=delay, method={"name": name, "update_interval": 9})
    assert ["no topology update" in note for note in notes] == [True] * (not callback.updates)


@pytest.mark.parametrize("end", [8, 9])
@pytest.mark.parametrize("steps", [19, 20, 21, 22])
def test_it_warns_if_a_network_will_not_get_to_its_final_sparsity(end: int, steps: int) -> None:
    method = {"update_interval": 3, "begin": 0, "end": end}
    model, _, notes = train("ne-td3", steps, initial_sparsity=0.8, method=method)
    layers = [layer for layer, _, _ in online_layers(model.policy).values()]
    is_reached = all(layer.values.numel() == layer.budget.end for layer in layers)
    assert ["final sparsity" in note for note in notes] == [True] * (not is_reached)


def test_any_learner_and_a_variant() -> None:
    with pytest.warns(UserWarning, match="nothing is redrawn"):
        model, (callback,) = make_agent("set-ppo", "CartPole-v1-noise50", n_steps=32, batch_size=32, n_envs=1)
    assert isinstance(model, PPO)
    model.learn(64, callback)
    assert make_agent("anf-sac", ENV, variant="paper", **SMALL).model.batch_size == 100  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algo": "anf-sacc"}, "Did you mean 'anf-sac'"),
        ({"env": "Pendulumm-v1-noise80"}, "Did you mean 'Pendulum"),
        ({"learning_rat": 1e-3}, "Did you mean 'learning_rate'"),
        ({"gamma": 2.0}, "gamma"),
        ({"seed": -5}, "seed"),
        ({"algo": "sac", "sparsity": 0.5}, "sparsity"),
        ({"env": "CartPole-v1-noise80"}, "Discrete"),
        ({"algo": "anf-sac", "sparsity": 0.0}, "so there is nothing for anf-sac to do"),
        ({"algo": "screened-sac", "learning_starts": 3}, "random transitions, and learning_starts is 3"),
        ({"policy_kwargs": {"optimizer_kwargs": 5}}, "optimizer_kwargs must hold keys and values, not 5"),
        ({"policy_kwargs": {"net_arch": [0]}}, "each number of units in net_arch must be a whole number"),
        ({"policy_kwargs": {"net_arch": 64}}, "net_arch must hold numbers of units, such as [256, 256], not 64"),
        ({"policy_kwargs": {"n_critics": 0}}, "n_critics must be a whole number"),
        ({"optimizer": {"name": "smet-adam", "density_exponent": 1e9}}, "density_exponent"),
        ({"ent_coef": "auto_²"}, "ent_coef"),
    ],
)
def test_what_does_not_fit_is_said(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make_agent(**{"algo": "anf-sac", "env": ENV, **SMALL, **arguments})


def test_random_seeds_differ() -> None:
    drawn = {make_agent("sac", ENV, **SMALL).model.seed for _ in range(2)}
    assert len(drawn) == 2
    assert all(isinstance(seed, int) and np.iinfo(np.int32).max >= seed >= 0 for seed in drawn)


def test_what_rooms_offer_can_be_listed() -> None:
    assert set(sparse_rl.agents.__all__) <= set(dir(sparse_rl.agents))
    assert set(sparse_rl.training.__all__) <= set(dir(sparse_rl.training))
