"""An environment id says which environment it is: in our ``make``, in Gymnasium's, in vectors, and in subprocesses."""

import doctest
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from hypothesis import assume, given
from hypothesis import strategies as st
from stable_baselines3.common import env_checker as sb3_env_checker
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import sparse_rl
from sparse_rl.envs import EnvironmentId, EnvironmentIdError, ids, make, register_environments
from sparse_rl.envs.ids import MUJOCO, PERCENTS

IDS = [
    "HalfCheetah-noise98",
    "HalfCheetah-noise99.5",
    "HalfCheetah-v4-noise98",
    "HalfCheetah-noise0",
    "Ant-noise95-permute1000000",
    "Hopper-noise90-std4",
    "Hopper-noise90-std0.5-permute20",
    "Pendulum-noise90-real",
    "HalfCheetah-noise90-ar",
    "Hopper-noise80-ar-permute20",
    "Hopper-noise80-other",
    "CartPole-v0-noise60-other-permute20",
    "CartPole-permute20",
    "CartPole-v0-noise50",
]


def wrappers(env):
    return [] if not isinstance(env, gym.Wrapper) else [type(env).__name__, *wrappers(env.env)]


def python(code, folder):
    """Run code in a new process where warnings are errors."""
    environment = {**os.environ, "PYTHONPATH": str(Path(sparse_rl.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


decimals = st.integers(1, 999_999).map(lambda i: i / 10_000)
noises = st.fixed_dictionaries(
    {"noise": decimals | st.just(0.0)},
    optional={"std": decimals} | {},
) | st.fixed_dictionaries({"noise": decimals, "distribution": st.sampled_from(["real", "ar", "other"])})


@given(
    st.from_regex(r"([a-z_.]{1,5}:)?([a-zA-Z-]{1,5}/)?[A-Z][a-zA-Z0-9_.]{0,8}(-[a-z]{1,3})?", fullmatch=True),
    st.none() | st.integers(0, 50),
    st.just({}) | noises,
    st.none() | st.integers(1, 10**9),
)
def test_parse_and_str_are_inverse(base, version, noise, permute):
    assume(not re.search("-(std|real|ar|other|noise|permute)$|-v[0-9]*$", base))
    original = EnvironmentId(base, version=version, permute=permute, **noise)
    assert EnvironmentId.parse(str(original)) == original


@pytest.mark.parametrize("text", IDS)
def test_ids_are_read_and_written(text):
    assert str(EnvironmentId.parse(text)) == text


def test_parts_of_an_id():
    assert EnvironmentId.parse("ns/My.Env_2-v3-noise99.5-std4-permute10") == EnvironmentId(
        "ns/My.Env_2", version=3, noise=99.5, std=4.0, permute=10
    )
    assert EnvironmentId.parse("a.module:ns/Env-noise90-real") == EnvironmentId(
        "a.module:ns/Env", noise=90, distribution="real"
    )
    assert str(EnvironmentId.parse("Ant-noise095.50-std1")) == "Ant-noise95.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("HalfCheetah-noise100", "'HalfCheetah-noise100': noise is a percentage in [0, 100)."),
        ("HalfCheetah-noise98.12345", "numbers have at most four decimals"),
        ("HalfCheetah-noise90-std0", "std is a positive standard deviation"),
        ("HalfCheetah-permute0", "permute is a positive number of steps"),
        ("HalfCheetah-noise90-std4-real", "leave out std"),
        ("HalfCheetah-noise90-std4-ar", "ar noise has a standard deviation of its own: leave out std"),
        ("HalfCheetah-noise90-std4-other", "leave out std"),
        ("HalfCheetah-noise90-othr", "for example HalfCheetah-noise98. Unknown part 'othr'. Did you mean 'other'?"),
        ("HalfCheetah-noise90-permut100", "Unknown part 'permut'. Did you mean 'permute'?"),
        ("HalfCheetah-noise90-arr-premute9", "Did you mean 'ar'? Unknown part 'premute'. Did you mean 'permute'?"),
        ("HalfCheetah-noise90-ar-other", "Cannot read"),
        ("HalfCheetah-ar", "Cannot read"),
        ("HalfCheetah-noise", "Cannot read the environment id 'HalfCheetah-noise'. Expected <Base>[-v<N>]"),
        ("HalfCheetah-noise-5", "Cannot read"),
        ("HalfCheetah-noise98%", "Cannot read"),
        ("HalfCheetah-std4", "Cannot read"),
        ("HalfCheetah-permute5-noise50", "Cannot read"),
        ("HalfCheetah-noise50-noise50", "Cannot read"),
        ("", "Cannot read"),
        ("HalfChetah-noise98", "Unknown environment 'HalfChetah'. Did you mean 'HalfCheetah'?"),
        ("no_such_module:Ant-noise50", "No module named 'no_such_module'. Is it installed?"),
        ("HalfChetah", "Unknown environment 'HalfChetah'. Did you mean 'HalfCheetah'?"),
        ("HalfCheetah-v9-noise98", "Unknown environment 'HalfCheetah-v9'. Did you mean 'HalfCheetah-v5'?"),
        ("Ant-v0-noise98", "Unknown environment 'Ant-v0'. Did you mean 'Ant-v5'?"),
    ],
)
def test_bad_ids_are_refused(text, message):
    with pytest.raises(EnvironmentIdError, match=re.escape(message)):
        make(text)
    assert issubclass(EnvironmentIdError, gym.error.Error)
    assert issubclass(EnvironmentIdError, ValueError)


def test_parts_that_contradict_each_other_are_refused():
    for distribution in ("real", "ar", "other"):
        with pytest.raises(EnvironmentIdError, match="std, real, ar and other need noise before them"):
            EnvironmentId("Ant", distribution=distribution)
    with pytest.raises(EnvironmentIdError, match=r"Unknown noise distribution 'othr'\. Did you mean 'other'"):
        EnvironmentId("Ant", noise=50, distribution="othr")
    for base in ("Ant-v5", "Ant-noise50", "Ant-real", "Ant-other", "A nt"):
        with pytest.raises(EnvironmentIdError, match="Cannot read"):
            EnvironmentId(base)
    assert EnvironmentId("Un-realistic-noisy").base == "Un-realistic-noisy"


@pytest.mark.parametrize("text", IDS)
def test_spec_survives_json(text):
    env = make(text)
    assert env.spec.id == text
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    assert wrappers(again) == wrappers(env)
    np.testing.assert_array_equal(again.reset(seed=3)[0], env.reset(seed=3)[0])
    action = env.action_space.sample()
    np.testing.assert_array_equal(again.step(action)[0], env.step(action)[0])
    assert env.spec.max_episode_steps == EnvironmentId.parse(text).base_spec().max_episode_steps


def test_wrappers_come_in_order_and_once():
    env = make("Ant-noise95-permute1000000")
    assert wrappers(env) == ["PermuteFeatures", "NoiseFeatures", "TimeLimit", "OrderEnforcing", "PassiveEnvChecker"]
    assert env.observation_space.shape == (2100,)


@pytest.mark.parametrize(("base", "d"), [("Hopper", 11), ("HalfCheetah", 17), ("Ant", 105), ("Humanoid", 348)])
def test_observation_sizes(base, d):
    assert make(f"{base}-noise98").observation_space.shape == (50 * d,)


@pytest.mark.parametrize("text", ["HalfCheetah-v5", "CartPole-v1"])
def test_plain_ids_are_gymnasiums(text):
    assert make(text).spec == gym.make(text).spec


def test_newest_version_unless_pinned():
    assert EnvironmentId.parse("HalfCheetah-noise98").base_spec().id == "HalfCheetah-v5"
    assert EnvironmentId.parse("HalfCheetah-v4-noise98").base_spec().id == "HalfCheetah-v4"
    assert make("CartPole").spec.id == "CartPole-v1"


def test_keyword_arguments_go_to_the_base_environment():
    env = make("HalfCheetah-noise50", render_mode="rgb_array", exclude_current_positions_from_observation=False)
    assert env.render_mode == "rgb_array"
    assert env.observation_space.shape == (36,)
    assert make("HalfCheetah-noise50", max_episode_steps=5).spec.max_episode_steps == 5


def test_foreign_environments_and_modules():
    gym.register("test-ns/Plain", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=7)
    try:
        for text in ("test-ns/Plain-noise50", "json:test-ns/Plain-noise50"):
            env = make(text)
            assert env.observation_space.shape == (6,)
            assert env.spec.id == "test-ns/Plain-noise50"
            assert env.spec.max_episode_steps == 7
    finally:
        del gym.registry["test-ns/Plain"]


def test_registration():
    with warnings.catch_warnings(action="error"):
        register_environments()  # again
    for base in MUJOCO:
        for percent in PERCENTS:
            spec = gym.spec(f"{base}-noise{percent}")
            assert spec.max_episode_steps == gym.spec(f"{base}-v5").max_episode_steps
            json.loads(spec.to_json())
    assert gym.make("HalfCheetah-noise98").spec == make("HalfCheetah-noise98").spec


@pytest.mark.parametrize("text", ["sparse_rl:HalfCheetah-noise98", "HalfCheetah-noise98"])
def test_gym_make_in_a_new_process(text, tmp_path):
    first = "" if ":" in text else "import sparse_rl; "
    code = f"import gymnasium; {first}print(gymnasium.make({text!r}).reset(seed=0)[0].shape)"
    done = python(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(850,)\n", "")
    assert list(tmp_path.iterdir()) == []  # no MUJOCO_LOG.TXT


def test_import_is_light(tmp_path):
    heavy = ("torch", "stable_baselines3", "numba", "mujoco", "matplotlib")
    done = python(f"import sparse_rl, sys; print([m for m in {heavy} if m in sys.modules])", tmp_path)
    assert done.stdout == "[]\n", done.stderr


def test_mujoco_warnings_reach_logging(caplog):
    make("HalfCheetah-noise50")
    assert caplog.records == []
    with caplog.at_level(logging.WARNING, "mujoco"):
        mujoco.get_mju_user_warning()("something else")
    assert caplog.messages == ["something else"]


def test_lazy_names_and_typos():
    for name in sparse_rl.envs.__all__:
        assert getattr(sparse_rl.envs, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'NoiseFeature'"):
        sparse_rl.envs.NoiseFeature  # noqa: B018


#: All that checkers have to say about us; the last two are about the base environment.
ALLOWED = [
    "is different from the unwrapped version",
    "observation space minimum value is -infinity",
    "observation space maximum value is infinity",
    "A Box observation space .* value is",
    "symmetric and normalized Box action space",
]


@pytest.mark.parametrize(
    "text", ["HalfCheetah-noise98", "Hopper-noise50-permute100", "HalfCheetah-noise90-ar", "Hopper-noise80-other"]
)
def test_environment_checkers(text):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(make(text, disable_env_checker=True), skip_render_check=True)
        sb3_env_checker.check_env(make(text))
    for warning in caught:
        assert any(re.search(allowed, str(warning.message)) for allowed in ALLOWED), str(warning.message)


@pytest.mark.parametrize("text", ["Hopper-noise90-permute20", "Hopper-noise80-ar-permute20"])
def test_vectors_show_what_single_environments_show(text):
    n = 2
    vectors = {
        "sync": gym.vector.SyncVectorEnv([lambda: make(text)] * n),
        "async": gym.vector.AsyncVectorEnv([lambda: make(text)] * n, context="forkserver"),
        "dummy": DummyVecEnv([lambda: make(text)] * n),
        "subprocess": SubprocVecEnv([lambda: make(text)] * n),
    }
    singles = [make(text) for _ in range(n)]
    expected = np.array([env.reset(seed=5 + i)[0] for i, env in enumerate(singles)])
    action = np.zeros((n, 3), np.float32)
    after = np.array([env.step(action[0])[0] for env in singles])
    for name, vector in vectors.items():
        if name in ("sync", "async"):
            shown, _ = vector.reset(seed=5)
        else:
            vector.seed(5)
            shown = vector.reset()
        np.testing.assert_array_equal(shown, expected, name)
        np.testing.assert_array_equal(vector.step(action)[0], after, name)
    model = singles[0].get_wrapper_attr("noise_model")
    assert vectors["subprocess"].get_attr("noise_model") == [model] * n
    vectors["subprocess"].env_method("set_phase", 3)
    vectors["subprocess"].reset()
    assert vectors["subprocess"].get_attr("phase") == [3] * n
    for vector in vectors.values():
        vector.close()


def test_make_vec():
    env = gym.make_vec("HalfCheetah-noise98", num_envs=2)
    assert env.reset(seed=0)[0].shape == (2, 850)
    assert gym.spec("CartPole-v1").vector_entry_point is not None
    assert EnvironmentId("CartPole", noise=50).spec().vector_entry_point is None


def test_examples_in_the_documentation():
    assert doctest.testmod(ids).attempted
    assert doctest.testmod(ids).failed == 0
