"""RLx2: multi-step targets after a delay, a replay whose capacity follows the policy, and the recipes of both."""

from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecCheckNan, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sparse_rl.agents.build import replay_callbacks
from sparse_rl.agents.checks import check_recipe
from sparse_rl.agents.recipe import load_recipe
from sparse_rl.agents.replay.callbacks import DynamicCapacityCallback, MultiStepCallback
from sparse_rl.agents.replay.dynamic import DynamicReplayBuffer
from sparse_rl.agents.sac import SAC
from sparse_rl.agents.td3 import TD3
from sparse_rl.commands.train import main
from sparse_rl.inputs import InputError

ENV = "InvertedPendulum-noise90"
# The method's times, for runs of 200 steps.
TIMES = (
    "method.update_interval:20 n_steps_delay:0.5 dynamic_capacity.interval:10 dynamic_capacity.minimum:60 "
    "dynamic_capacity.oldest:30 learning_starts:20 buffer_size:150 policy_kwargs.net_arch:[16,16]"
)


class Still(gym.Env[Any, Any]):
    """Nothing happens, in episodes without end; actions go from -2 to 2."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 0.0, False, False, {}


class Stubborn(SAC):
    """Does always the same when it is asked by the callback; explores by always doing the same, too."""

    wants: float = -1.0  # of [-2, 2]
    does: float = 1.0

    def predict(self, observation: Any, *args: Any, deterministic: bool = False, **kwargs: Any) -> Any:
        return np.full((len(observation), 1), self.wants, np.float32), None

    def _sample_action(self, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> Any:
        action = np.full((n_envs, 1), self.does, np.float32)
        return action, action / 2


def stubborn(buffer_size: int = 50, n_envs: int = 1) -> Stubborn:
    model = Stubborn(
        "MlpPolicy", stable_baselines3.common.env_util.make_vec_env(Still, n_envs), learning_starts=10**6,
        buffer_size=buffer_size, replay_buffer_class=DynamicReplayBuffer, policy_kwargs={"net_arch": [4]}, device="cpu",
    )  # fmt: skip
    model.set_logger(Logger(None, []))
    return model


class Sizes(BaseCallback):
    """Notes how many steps are in the replay right after each look; goes behind the callback that looks."""

    def __init__(self, interval: int) -> None:
        super().__init__()
        self.interval = interval
        self.sizes: list[int] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % self.interval == 0:
            self.sizes.append(self.model.replay_buffer.size())  # type: ignore[attr-defined]
        return True


# Capacity


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        # Actions are 0.5 and -0.5 of [-1, 1]: a policy distance of 1 / 2. In step t, t - 1 are stored, so that
        # 29 become 27, 37 become 34, 44 become 40, the full 50 become 45, and again.
        ({"minimum": 20}, [9, 19, 27, 34, 40, 45, 45]),
        ({"minimum": 20, "drop_fraction": 0.5}, [9, 19, 20, 20, 20, 20, 20]),
        ({"minimum": 28, "drop_fraction": 0.5}, [9, 19, 28, 28, 28, 28, 28]),
        ({"minimum": 50}, [9, 19, 29, 39, 49, 50, 50]),
        ({"minimum": 20, "threshold": 0.49}, [9, 19, 27, 34, 40, 45, 45]),
        ({"minimum": 20, "threshold": 0.5}, [9, 19, 29, 39, 49, 50, 50]),  # not above
    ],
)
def test_capacity_falls_by_the_rule_worked_by_hand(settings: dict[str, Any], sizes: list[int]) -> None:
    model, seen = stubborn(), Sizes(10)
    model.learn(70, [DynamicCapacityCallback(interval=10, **settings), seen])
    assert seen.sizes == sizes


def test_what_goes_is_the_oldest_until_what_is_left_is_near() -> None:
    """The first ten actions are far from the policy's, at a distance of 1 / 2; all others are the policy's."""
    model, seen = stubborn(buffer_size=200), Sizes(10)
    callbacks = [DynamicCapacityCallback(interval=10, minimum=1, oldest=5), seen]
    model.learn(10, callbacks)
    model.does = model.wants
    model.learn(90, callbacks, reset_num_timesteps=False)
    # A tenth, rounded down, of 9, 19, 28, 36 and 43: 0, 1, 2, 3 and 4. Then the ten are gone.
    assert seen.sizes == [9, 18, 26, 33, 39, 49, 59, 69, 79, 89]
    assert isinstance(model.replay_buffer, DynamicReplayBuffer)
    assert (model.replay_buffer.oldest(90)[1] == -0.5).all()
    assert model.logger.name_to_value["replay/policy_distance"] == 0
    assert model.logger.name_to_value["replay/transitions"] == 89


def test_the_policy_distance_is_half_the_mean_squared_difference_of_scaled_actions() -> None:
    model = stubborn(n_envs=2)
    callback = DynamicCapacityCallback(minimum=2, oldest=3)
    model.learn(4, callback)
    for wants, distance in ((1.0, 0), (-1.0, 1 / 2), (2.0, 1 / 8), (-2.0, 9 / 8)):
        model.wants = wants
        assert callback.policy_distance() == pytest.approx(distance)


def test_the_policy_sees_observations_as_it_does_when_it_acts() -> None:
    model = stubborn(n_envs=2)
    callback = DynamicCapacityCallback(minimum=2, oldest=3)
    model.learn(4, callback)
    normalized = VecNormalize(model.get_env())
    model._vec_normalize_env, model.env = normalized, VecCheckNan(normalized)
    with mock.patch.object(model.replay_buffer, "oldest", wraps=model.replay_buffer.oldest) as oldest:
        callback.policy_distance()
    oldest.assert_called_once_with(3, normalized)


def test_each_interval_has_one_look_however_many_environments_there_are() -> None:
    model = stubborn(n_envs=4)
    callback = DynamicCapacityCallback(interval=10, minimum=1)
    looks: list[int] = []
    callback._look = lambda: looks.append(callback.num_timesteps)  # type: ignore[method-assign]
    model.learn(60, callback)
    assert looks == [12, 20, 32, 40, 52, 60]


# Delay


@pytest.mark.parametrize(("delay", "switch"), [(0, 0), (5, 5), (6, 6), (1000, 30)])
def test_targets_look_one_step_ahead_until_the_delay_is_over(delay: int, switch: int) -> None:
    model = SAC(
        "MlpPolicy", Still(), learning_starts=10, batch_size=4, replay_buffer_class=DynamicReplayBuffer, device="cpu",
        policy_kwargs={"net_arch": [4]}, replay_buffer_kwargs={"n_steps": 3}, buffer_size=100,
    )  # fmt: skip
    seen, train = [], model.train

    def watched(*args: Any, **kwargs: Any) -> None:
        assert isinstance(model.replay_buffer, DynamicReplayBuffer)
        seen.append(model.replay_buffer.n_steps)
        train(*args, **kwargs)

    model.train = watched  # type: ignore[method-assign]
    model.learn(40, MultiStepCallback(3, delay))
    assert seen == [1] * switch + [3] * (30 - switch)


# Recipes


@pytest.mark.parametrize(
    ("learner", "environment", "actor", "critic"),
    [
        ("td3", "HalfCheetah", 0.9, 0.85),
        ("td3", "Hopper", 0.98, 0.95),
        ("td3", "Walker2d", 0.97, 0.95),
        ("td3", "Ant", 0.96, 0.88),
        ("sac", "HalfCheetah", 0.9, 0.8),
        ("sac", "Hopper", 0.98, 0.95),
        ("sac", "Walker2d", 0.9, 0.9),
        ("sac", "Ant", 0.9, 0.75),
    ],
)
def test_recipes_have_the_published_settings(learner: str, environment: str, actor: float, critic: float) -> None:
    recipe = load_recipe(f"rlx2-{learner}", environment, "paper")
    capacity = recipe["dynamic_capacity"]
    assert recipe["sparsity"] == {"actor": actor, "critic": critic}
    assert (recipe["distribution"], recipe["layers"]) == ("erdos_renyi", "all")
    method = recipe["method"]
    assert (method["name"], method["drop_fraction"], method["decay"]) == ("rigl", 0.5, "cosine")
    assert method["update_interval"] == 10_000
    assert (recipe["n_timesteps"], recipe["n_steps"], recipe["n_steps_delay"]) == (3_000_000, 3, 300_000)
    assert (capacity["threshold"], capacity["interval"]) == (0.2, 10_000)
    assert capacity["minimum"] == (200_000 if learner == "sac" else 100_000)
    assert recipe.get("buffer_size", 1_000_000) == (3_000_000 if learner == "sac" else 1_000_000)
    assert (recipe["learning_rate"], recipe["batch_size"], recipe["learning_starts"]) == (3e-4, 256, 25_000)
    assert recipe["policy_kwargs"] == {"net_arch": [256, 256], "optimizer_kwargs": {"weight_decay": 0}}


def train(words: str, folder: Path) -> th.Tensor:
    assert main([*words.split(), "--log-folder", str(folder)]) == 0
    (agent,) = folder.glob("*/*/1/InvertedPendulum*.zip")
    learner: Any = SAC if "sac" in words else TD3
    return th.cat([p.detach().flatten() for p in learner.load(agent, device="cpu").policy.parameters()])


@pytest.mark.parametrize(
    ("learner", "where"),
    [
        ("sac", f"{ENV}-permute50 --replay redrawn"),
        ("td3", f"{ENV}-permute50 --replay observed"),
        ("td3", "InvertedPendulum-v5"),
    ],
)
def test_a_run_is_what_its_seed_makes_it(tmp_path: Path, learner: str, where: str) -> None:
    words = f"--algo rlx2-{learner} --env {where} -n 200 --seed 1 --eval-freq 100 --eval-episodes 1 -params {TIMES}"
    first, second = (train(words, tmp_path / name) for name in ("first", "second"))
    assert th.equal(first, second)
    assert th.isfinite(first).all()
    (folder,) = (tmp_path / "first").glob("*/*/1")
    curves = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    assert {scalar.value for scalar in curves.Scalars("replay/n_steps")} <= {1, 3}
    assert curves.Scalars("replay/n_steps")[-1].value == 3
    transitions = [scalar.value for scalar in curves.Scalars("replay/transitions") if scalar.step > 80]
    assert 60 <= min(transitions) <= max(transitions) <= 150
    config = yaml.safe_load((folder / "config.yml").read_text())
    assert config["hyperparameters"]["dynamic_capacity"]["minimum"] == 60


def test_multi_step_targets_go_with_redrawn_noise_and_any_algorithm(tmp_path: Path) -> None:
    words = f"--algo anf-sac --env {ENV} -n 60 --seed 1 --eval-freq -1 -params n_steps:3 learning_starts:20 "
    words += "buffer_size:100 policy_kwargs.net_arch:[8]"
    assert not th.equal(train(words, tmp_path / "3"), train(words.replace("steps:3", "steps:1"), tmp_path / "1"))


# Bad input


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"n_steps": 0}, "n_steps must be a whole number of at least 1, not 0"),
        ({"n_steps_delay": -5}, r"n_steps_delay must be a gradient step, or a fraction of the run up to 1.0, not -5"),
        ({"n_steps_delay": 1.5}, "n_steps_delay must be a gradient step"),
        ({"dynamic_capacity": 0.2}, "dynamic_capacity must be a mapping"),
        ({"dynamic_capacity": {"treshold": 1}}, "Unknown setting of dynamic_capacity 'treshold'.*'threshold'"),
        ({"dynamic_capacity": {"threshold": 0}}, "threshold must be a number above 0, not 0"),
        ({"dynamic_capacity": {"interval": 0}}, "interval must be a whole number of at least 1, not 0"),
        ({"dynamic_capacity": {"minimum": 0.5}}, "minimum must be a whole number of at least 1, not 0.5"),
        ({"dynamic_capacity": {"drop_fraction": 0}}, r"drop_fraction must be a number in \(0, 1\], not 0"),
    ],
)
def test_bad_recipes(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_recipe(recipe, {"n_steps": 1})


@pytest.mark.parametrize(
    ("callback", "settings", "message"),
    [
        (MultiStepCallback, {"n_steps": 0}, "`n_steps` must be at least 1, not 0"),
        (MultiStepCallback, {"delay": -1}, "`delay` must be a number of gradient steps of at least 0, not -1"),
        (DynamicCapacityCallback, {"threshold": 0}, "`threshold` of the policy distance must be above 0, not 0"),
        (DynamicCapacityCallback, {"threshold": float("nan")}, "above 0, not nan"),
        (DynamicCapacityCallback, {"interval": 0}, "`interval` must be at least 1, not 0"),
        (DynamicCapacityCallback, {"minimum": 0}, "`minimum` must be at least 1, not 0"),
        (DynamicCapacityCallback, {"oldest": 0}, "`oldest` must be at least 1, not 0"),
        (DynamicCapacityCallback, {"drop_fraction": 1.1}, r"`drop_fraction` must lie in \(0, 1\], not 1.1"),
    ],
)
def test_bad_callbacks(callback: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        callback(**settings)


def test_the_least_capacity_must_not_be_above_the_greatest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = (
        "The replay buffer must never hold fewer than 100000 transitions, its `minimum`, but it holds at most 50000: "
        "give a smaller `minimum`, or a larger `buffer_size`."
    )
    words = f"--algo rlx2-sac --env {ENV} --buffer-size 50000 -n 20000 -f {tmp_path / 'runs'}"
    assert main(words.split()) == 2
    assert capsys.readouterr().err.endswith(f"error: {message}\n")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match="give a smaller `minimum`"):
        stubborn().learn(1, DynamicCapacityCallback(minimum=51))
    stubborn().learn(1, DynamicCapacityCallback(minimum=50))


@pytest.mark.parametrize("callback", [MultiStepCallback(), DynamicCapacityCallback()])
def test_other_replay_buffers_are_refused(callback: BaseCallback) -> None:
    model = SAC("MlpPolicy", Still(), buffer_size=10, device="cpu")
    with pytest.raises(ValueError, match="needs a DynamicReplayBuffer, not ReplayBuffer: make the model with"):
        model.learn(1, callback)
    with pytest.raises(ValueError, match="needs a DynamicReplayBuffer, not NoneType"):
        stable_baselines3.PPO("MlpPolicy", Still(), n_steps=4, batch_size=4, device="cpu").learn(4, callback)


def test_learner_and_replay_buffer_discount_alike() -> None:
    kwargs: dict[str, Any] = {"buffer_size": 10, "gamma": 0.9, "replay_buffer_class": DynamicReplayBuffer}
    model = SAC("MlpPolicy", Still(), device="cpu", **kwargs)
    with pytest.raises(ValueError, match=r"discounts by 0\.9, its replay buffer by 0\.99: give `replay_buffer_kwargs="):
        model.learn(1, MultiStepCallback())
    SAC("MlpPolicy", Still(), device="cpu", replay_buffer_kwargs={"gamma": 0.9}, **kwargs).learn(1, MultiStepCallback())


def test_discrete_actions_have_no_distance() -> None:
    model = stable_baselines3.DQN(
        "MlpPolicy", "CartPole-v1", buffer_size=100, replay_buffer_class=DynamicReplayBuffer, device="cpu"
    )
    with pytest.raises(ValueError, match="Only Box actions have a distance"):
        model.learn(1, DynamicCapacityCallback(minimum=10))


def test_a_run_whose_gradient_steps_nobody_knows_needs_a_delay_in_gradient_steps() -> None:
    settings = {"n_steps": 3, "n_timesteps": 100, "learning_starts": 0, "gradient_steps": 1, "n_envs": 1}
    settings |= {"train_freq": [1, "episode"]}
    with pytest.raises(InputError, match="number of gradient steps is not known"):
        replay_callbacks(settings | {"n_steps_delay": 0.1})
    (callback,) = replay_callbacks(settings | {"n_steps_delay": 7})
    assert isinstance(callback, MultiStepCallback)
    assert (callback.n_steps, callback.delay) == (3, 7)
    assert replay_callbacks(settings) == []
