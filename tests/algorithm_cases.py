"""Small agents of every algorithm of Stable-Baselines3 and sb3-contrib that learns by gradients, for the tests."""

from dataclasses import dataclass, field
from typing import Any

from sb3_contrib import QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DDPG, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from sparse_rl.sb3 import sparse_policy

OFF_POLICY = {"learning_starts": 20, "batch_size": 8, "buffer_size": 500, "train_freq": 2}
ROLLOUTS = {"n_steps": 32, "batch_size": 16}


@dataclass(frozen=True)
class Case:
    algorithm: type[BaseAlgorithm]
    env: str
    settings: dict[str, Any]
    layers: dict[str, list[str]]  # of each network, the input layer first
    policy_kwargs: dict[str, Any] = field(default_factory=dict)


def on_policy(algorithm: type[BaseAlgorithm], env: str, settings: dict[str, Any], **policy_kwargs: Any) -> Case:
    nets = {"actor": ("mlp_extractor.policy_net", "action_net"), "value": ("mlp_extractor.value_net", "value_net")}
    layers = {name: [f"{body}.0", f"{body}.2", head] for name, (body, head) in nets.items()}
    return Case(algorithm, env, settings, layers, policy_kwargs=policy_kwargs)


CRITICS = {name: [f"critic.{name}.{i}" for i in (0, 2, 4)] for name in ("qf0", "qf1")}
CASES = {
    "ppo": on_policy(PPO, "CartPole-v1", {**ROLLOUTS, "n_epochs": 2}),
    "ppo-box": on_policy(PPO, "Pendulum-v1", {**ROLLOUTS, "n_epochs": 3}),
    "a2c": on_policy(A2C, "CartPole-v1", {}),
    "trpo": on_policy(TRPO, "CartPole-v1", {**ROLLOUTS, "n_critic_updates": 2}, kernel="scatter"),
    "dqn": Case(DQN, "CartPole-v1", OFF_POLICY, {"q_net": [f"q_net.q_net.{i}" for i in (0, 2, 4)]}),
    "qrdqn": Case(
        QRDQN, "CartPole-v1", OFF_POLICY,
        {"q_net": [f"quantile_net.quantile_net.{i}" for i in (0, 2, 4)]}, {"n_quantiles": 4},
    ),
    "ddpg": Case(
        DDPG, "Pendulum-v1", OFF_POLICY, {"actor": [f"actor.mu.{i}" for i in (0, 2, 4)], "qf0": CRITICS["qf0"]}
    ),
    "tqc": Case(
        TQC, "Pendulum-v1", OFF_POLICY,
        {"actor": ["actor.latent_pi.0", "actor.latent_pi.2", "actor.mu", "actor.log_std"], **CRITICS},
        {"n_quantiles": 5},
    ),
    "crossq": Case(  # a batch renormalisation stands before each layer
        CrossQ, "Pendulum-v1", OFF_POLICY,
        {
            "actor": ["actor.latent_pi.1", "actor.latent_pi.4", "actor.mu", "actor.log_std"],
            **{name: [f"critic.{name}.{i}" for i in (1, 4, 7)] for name in ("qf0", "qf1")},
        },
    ),
}  # fmt: skip


def make(name: str, sparse: bool = True, **policy_kwargs: Any) -> Any:
    case = CASES[name]
    dense = case.algorithm.policy_aliases["MlpPolicy"]
    given = {"net_arch": [16, 12], **case.policy_kwargs, **policy_kwargs}
    if not sparse:
        given.pop("kernel", None)
    return case.algorithm(
        sparse_policy(dense) if sparse else dense,
        case.env,
        policy_kwargs=given,
        seed=0,
        device="cpu",
        **case.settings,
    )
