"""Features are called by what they are, or by their numbers: never by something else."""

import doctest

import gymnasium as gym
import numpy as np
import pytest

from sparse_rl.envs import feature_names, make, names

MUJOCO = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "InvertedPendulum", "Swimmer", "Walker2d")


def test_examples() -> None:
    assert doctest.testmod(names).attempted
    assert doctest.testmod(names).failed == 0


@pytest.mark.parametrize("base", MUJOCO)
def test_what_is_called_after_a_joint_is_that_joints(base: str) -> None:
    env = make(f"{base}-noise50")
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(5):
        observation, *_ = env.step(env.action_space.sample())
    simulation = env.unwrapped.data
    called = feature_names(env)
    assert len(called) == len(set(called)) == len(observation)
    checked = 0
    for name, value in zip(called, observation, strict=True):
        part, _, joint = name.partition(" ")
        if part in ("qpos", "qvel") and " " not in joint:
            truth = np.clip(getattr(simulation.joint(joint), part)[0], -10, 10)  # Hopper and Walker2d clip velocities
            assert np.isclose(np.clip(value, -10, 10), truth, atol=1e-6), name
            checked += 1
    assert checked >= 4
    assert sum(name.startswith("noise ") for name in called) == len(called) // 2


def test_bodies_of_the_ant() -> None:
    called = feature_names(make("Ant"))
    assert [each for each in called if each.startswith("cfrc_ext")][:7] == [
        *(f"cfrc_ext torso {i}" for i in range(6)),
        called[33],
    ]
    assert called[0] == "qpos root z"
    assert called[13] == "qvel root x"


def test_reacher() -> None:
    env = make("Reacher")
    observation, _ = env.reset(seed=3)
    value = dict(zip(feature_names(env), observation, strict=True))
    simulation = env.unwrapped.data
    assert np.isclose(value["cos joint1"], np.cos(simulation.joint("joint1").qpos[0]))
    assert np.isclose(value["sin joint0"], np.sin(simulation.joint("joint0").qpos[0]))
    difference = simulation.body("fingertip").xpos - simulation.body("target").xpos
    assert np.allclose([value["fingertip - target x"], value["fingertip - target y"]], difference[:2])


def test_names_move_with_their_features() -> None:
    env = make("CartPole-v1-noise50-permute10")
    plain = make("CartPole-v1")
    env.get_wrapper_attr("set_phase")(3)
    observation, _ = env.reset(seed=1)
    truth = dict(zip(feature_names(plain), plain.reset(seed=1)[0], strict=True))
    called = feature_names(env)
    assert called != feature_names(make("CartPole-v1-noise50"))
    for name, value, real in zip(called, observation, env.get_wrapper_attr("real_features"), strict=True):
        assert real == (name in truth)
        if real:
            assert value == truth[name]


def test_copies_are_called_after_what_they_copy() -> None:
    called = feature_names(make("InvertedPendulum-noise80-other"))
    assert called[3:6] == ["qvel hinge", "copy 0: qpos slider", "copy 0: qpos hinge"]


class Plant(gym.Env):
    """An environment of somebody's own."""

    observation_space = gym.spaces.Box(-1, 1, (3,))
    action_space = gym.spaces.Discrete(2)


def test_own_names() -> None:
    assert feature_names(Plant()) == ["feature 0", "feature 1", "feature 2"]
    env = Plant()
    env.feature_names = ("valve", "heat", "flow")
    assert feature_names(gym.wrappers.TimeLimit(env, 10)) == ["valve", "heat", "flow"]
    env.feature_names = ("valve",)  # too few
    assert feature_names(env)[0] == "feature 0"


class Named(Plant):
    @property
    def feature_names(self) -> list[str]:
        return ["valve", "heat", "flow"]


def test_names_may_be_a_property() -> None:
    assert feature_names(Named()) == ["valve", "heat", "flow"]


def test_what_may_have_moved_is_not_named() -> None:
    env = make("CartPole-v1")
    turned = gym.wrappers.TransformObservation(env, lambda observation: observation[::-1], env.observation_space)
    assert feature_names(turned) == [f"feature {i}" for i in range(4)]
