"""Gradient steps, which algorithms count and space differently."""

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm


def gradient_steps(model: BaseAlgorithm) -> int:
    """
    Count the gradient steps of a model so far, as steps of its optimizers.

    Off-policy algorithms count them in ``_n_updates``. So does A2C, which takes one after each rollout. PPO counts
    epochs there, of which each has a gradient step for each minibatch; an epoch that ``target_kl`` cuts short counts in
    full. TRPO counts rollouts; its gradient steps are those of the value function, the actor's one step among them.

    :param model: the model
    :return: the number of gradient steps
    """
    return model._n_updates * steps_per_count(model)


def steps_per_count(model: BaseAlgorithm) -> int:
    """
    Tell how many gradient steps ``model._n_updates`` counts as one.

    :param model: the model
    :return: the number, the same at all times
    """
    if not isinstance(model, OnPolicyAlgorithm):
        return 1
    return minibatches(
        model.n_steps * model.n_envs, getattr(model, "batch_size", None), getattr(model, "n_critic_updates", 1)
    )


def minibatches(transitions: int, batch_size: int | None, epochs: int = 1) -> int:
    """
    Count the minibatches into which rollouts are cut.

    :param transitions: the transitions of one rollout, of all environments
    :param batch_size: transitions in a minibatch, of which the last may have fewer; ``None`` for all
    :param epochs: how often each transition is used
    :return: the number of minibatches
    """
    return epochs * (1 if batch_size is None else -(-transitions // batch_size))


def actor_interval(model: BaseAlgorithm) -> int:
    """
    Tell how often the actor is trained.

    :param model: the model
    :return: gradient steps of the critics for each of the actor: TD3's ``policy_delay``; 1 for algorithms without
    """
    return getattr(model, "policy_delay", 1)
