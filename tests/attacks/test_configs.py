"""Attack: configurations that lie about what an agent is, or ask for more than any machine has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Warden, edit_config, edit_data
from stable_baselines3.common.vec_env import DummyVecEnv

from sparse_rl import envs
from sparse_rl.agents import load_agent, safe_load
from sparse_rl.agents.saved import CONFIG
from sparse_rl.storage import StorageError


def put(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Set the value at a dotted path."""

    def edit(config: dict[str, Any]) -> None:
        *outer, last = path.split(".")
        for key in outer:
            config = config[key]
        config[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("policy_kwargs.net_arch", [10**12]), "more than 65,536"),
        (put("policy_kwargs.net_arch", [65_536, 65_536]), "would have more than 134,217,728 weights"),
        (put("policy_kwargs.net_arch", {"pi": [4], "qf": [65_536, 65_536]}), "would have more than 134,217,728"),
        (put("policy_kwargs.net_arch", [4] * 10_000), "a list of 10,000 entries"),
        (put("policy_kwargs.net_arch", [-4]), "cannot be built"),
        (put("policy_kwargs.net_arch", "[4]"), "cannot be built"),
        (put("policy_kwargs.net_arch", [16, 16]), "does not fit the agent"),
        (put("policy_kwargs.n_critics", 60_000), "would have more than 134,217,728 weights"),
        (put("policy_kwargs.n_critics", "2"), "n_critics in '"),
        (put("policy_kwargs.n_critics", 0), "must be a whole number of at least 1"),
        (put("policy_kwargs.activation_fn", "os.system"), "Unknown activation_fn 'os.system'"),
        (put("policy_kwargs.activation_fn", "Transformer"), "Unknown activation_fn 'Transformer'"),
        (put("policy_kwargs.activation_fn", {}), "Unknown activation_fn"),
        (put("policy_kwargs.optimizer_class", "Addam"), "Did you mean 'Adam'"),
        (put("policy_kwargs.optimizer_kwargs", {"lr": "x"}), "cannot be built"),
        (put("policy_kwargs.features_extractor_class", "builtins.eval"), "Unknown features_extractor_class"),
        (put("policy_kwargs.features_extractor_kwargs", [1]), "must be a dictionary"),
        (put("policy_kwargs.sparsty", 0.5), "Did you mean 'sparsity'"),
        (put("policy_kwargs.sparsity", 2.0), "cannot be built"),
        (put("policy_kwargs", []), "policy_kwargs in '"),
        (put("arguments.__class__", 1), "Unknown key of arguments"),
        (put("arguments.gama", 1), "Did you mean 'gamma'"),
        (put("arguments.gamma", "high"), "gamma in '"),
        (put("arguments.use_sde", 1), "use_sde in '"),
        (put("arguments.train_freq", [1, "step", 2]), "train_freq in '"),
        (put("arguments.policy_kwargs", {}), "Unknown key of arguments 'policy_kwargs'"),
        (put("algorithm", "os.system"), "Unknown algorithm 'os.system'"),
        (put("algorithm", "stable_baselines3.PPO"), "Unknown policy of stable_baselines3.PPO 'SparseSACPolicy'"),
        (put("policy", "SACPolicy"), "Unknown key of policy_kwargs 'sparsity'"),
        (put("format", 2), "does not describe an agent in the format 1"),
        (put("code", "x"), "Unknown key 'code'"),
        (lambda config: config.pop("policy"), "lacks the key 'policy'"),
        (put("observation_space.shape", [10**12]), "is not in [1, 4,194,304]"),
        (put("observation_space.shape", [4_000, 4_000]), "is more than 4,194,304 numbers"),
        (put("observation_space.shape", [4_000_000]), "There is no space"),  # its bounds are three numbers
        (put("observation_space", {"kind": "Discrete", "n": 4_000_000, "start": 0}), "134,217,728 weights"),
        (put("observation_space.dtype", "object"), "unknown dtype 'object'"),
        (put("observation_space.low", "-infinity"), "is not a bound"),
        (put("observation_space.kind", "Graph"), "Expected one of the spaces"),
        (put("observation_space.more", 1), "There is no space"),
        (put("observation_space", 3), "Expected one of the spaces"),
        (put("action_space", {"kind": "Discrete", "n": 2, "start": 0}), "cannot be built"),
        (put("action_space.shape", [2]), "does not fit the agent"),
    ],
)  # fmt: skip
def test_a_configuration_that_lies(
    agent: Path, warden: Warden, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit_config(agent, edit)
    assert message in warden.refusal("agent", agent)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda config: config.pop("acting_only"), "lacks the tensor 'critic"),
        (put("acting_only", False), "lacks the tensor 'critic"),
        (put("acting_only", 1), "acting_only in '"),
        (put("acting_only", "true"), "acting_only in '"),
        (put("acting_onyl", True), "Did you mean 'acting_only'"),
        # What is left out when it has been built is bounded before, as if it were there.
        (put("policy_kwargs.n_critics", 60_000), "would have more than 134,217,728 weights"),
        (put("policy_kwargs.net_arch", {"pi": [16, 8], "qf": [65_536, 65_536]}), "would have more than 134,217,728"),
        (put("policy", "SACPolicy"), "Unknown key of policy_kwargs 'sparsity'"),
        (put("algorithm", "stable_baselines3.DQN"), "Unknown policy of stable_baselines3.DQN"),
    ],
)  # fmt: skip
def test_a_configuration_that_lies_about_an_agent_that_acts_only(
    actor: Path, warden: Warden, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit_config(actor, edit)
    assert message in warden.refusal("agent", actor)


def test_a_whole_agent_that_claims_to_act_only(agent: Path, warden: Warden) -> None:
    edit_config(agent, put("acting_only", True))
    assert "should not have the tensor" in warden.refusal("agent", agent)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 500_000, "nested too deeply"),
        (b'{"format":' * 200_000, "nested too deeply"),
        (b"{", "There is an error in"),
        (b"[]", "does not describe an agent"),
        (b"\xff", "There is an error in"),
        (b'{"format": 1, "format": 1}', "occurs twice"),
        (b" " * 2**23, "more than the 4,194,304 that may be read"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_configuration(agent: Path, warden: Warden, text: bytes, message: str) -> None:
    (agent / CONFIG).write_bytes(text)
    assert message in warden.refusal("agent", agent)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("policy_kwargs", {"net_arch": [10**12]}), "more than 65,536"),
        (put("policy_kwargs", {"activation_fn": "<class 'os.system'>"}), "Unknown activation_fn 'system'"),
        (put("policy_kwargs", [1]), "policy_kwargs in '"),
        (put("policy_class", {}), "does not say which of the policies"),
        (put("policy_class", None), "does not say which of the policies"),
        (put("observation_space", {}), "cannot be read without unpickling: give an environment"),
        (put("observation_space._shape", [10**12]), "cannot be read without unpickling: give an environment"),
        (put("action_space.low", "[-1. ... -1.]"), "cannot be read without unpickling: give an environment"),
        (put("gamma", "high"), "gamma in '"),
        (lambda data: data.pop("ent_coef"), "Nothing says which algorithm made '"),
    ],
)
def test_data_of_a_zip_that_lie(
    archive: Path, warden: Warden, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit_data(archive, edit)
    assert message in warden.refusal("zip", archive)


def test_an_environment_with_other_spaces(agent: Path, archive: Path) -> None:
    env = DummyVecEnv([lambda: envs.make("Hopper-v5")])
    for load, path in ((load_agent, agent), (safe_load, archive)):
        with pytest.raises(StorageError, match=r"whose observation_space is Box.*, but the environment's is Box"):
            load(path, env=env, buffer_size=1)
    env.close()


def test_an_algorithm_that_nobody_knows(archive: Path) -> None:
    with pytest.raises(StorageError, match=r"that can be read safely\. Known: sparse_rl\.agents\.SAC"):
        safe_load(archive, dict)  # type: ignore[arg-type]
