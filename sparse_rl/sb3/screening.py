"""Wire the input layers by what the first transitions say, before anything is learnt."""

from typing import Any

import numpy as np
import torch as th
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize

from sparse_rl.inputs import InputError
from sparse_rl.nn import SparseLinear, rewire_layer
from sparse_rl.sb3.callbacks import online_layers
from sparse_rl.sb3.networks import networks_of
from sparse_rl.topology import Evidence, Rewiring, Topology, fewest_transitions, sample_distinct, screen
from sparse_rl.topology.evidence import MOST_NUMBERS


class ScreeningCallback(BaseCallback):
    """
    Test at the end of the random warm-up which features bear on the task, and connect the input layers to those.

    A layer is then as sparse over the chosen features as it was over all: positions and weights are drawn anew, and
    what is left of its weights is given up. Actions are always among the chosen. If no feature is chosen, everything
    stays as it is.

    See :mod:`sparse_rl.topology.evidence`. Logs ``screening/*``: how many transitions were looked at, and how many
    features were chosen.

    :param level: the expected fraction of false discoveries among the chosen features, in (0, 1)
    :param seed: of the new topologies and weights; ``None`` for the model's, and if it has none for a random one
    :param verbose: 0 for silence, 1 to print what was found
    :raises ValueError: if the level is out of range
    """

    def __init__(self, level: float = 0.01, seed: int | None = None, verbose: int = 0) -> None:
        super().__init__(verbose)
        if not 0 < level < 1:
            raise ValueError(f"The level of screening must lie between 0 and 1, not {level}.")
        self.level = level
        self.seed = seed
        #: What the tests said; ``None`` before.
        self.evidence: Evidence | None = None
        self._last_model: object = None

    def _init_callback(self) -> None:
        if not isinstance(self.model, OffPolicyAlgorithm):
            raise ValueError(f"Screening looks at a replay buffer, which {type(self.model).__name__} does not have.")
        if self.model is not self._last_model:
            self.evidence, self._last_model = None, self.model
        if self.evidence is None and not self.model._n_updates:
            self.check(self.model)

    @staticmethod
    def check(model: OffPolicyAlgorithm) -> None:
        """
        Check that an agent's features and its random warm-up are such that the tests can be made.

        :param model: the agent, not trained yet
        :raises InputError: if the networks do not read the features as they are, the warm-up is too short or not
            random, or a method is to change the number of weights later
        """
        extractor = model.policy.features_extractor_class
        if not isinstance(model.observation_space, Box) or extractor is not FlattenExtractor:
            raise InputError("Screening needs networks that read a vector of features as it is (FlattenExtractor).")
        if model.use_sde_at_warmup:
            raise InputError("Screening needs a warm-up with random actions: leave out use_sde_at_warmup.")
        for name, (layer, _, _) in online_layers(model.policy).items():
            if layer.budget.start != layer.budget.end:
                raise InputError(
                    f"Screening settles how many weights {name} has, and a method is to change that: choose one that "
                    "keeps their number, such as static or set."
                )
        space = model.action_space
        needed = fewest_transitions(
            int(space.n) - 1 if isinstance(space, Discrete) else int(np.prod(space.shape or ()))
        )
        if min(_warm_up(model) * model.n_envs, model.buffer_size) < needed:
            raise InputError(
                f"Screening needs at least {needed} random transitions, and learning_starts is "
                f"{model.learning_starts}, buffer_size {model.buffer_size}: give {needed} or more for both, and a "
                "larger -n."
            )

    def keep(self) -> dict[str, Any] | None:
        """
        Give what has to be kept in a checkpoint.

        :return: the evidence, as tensors; ``None`` before the tests
        """
        return None if self.evidence is None else dict(vars(self.evidence))

    def restore(self, state: dict[str, Any] | None) -> None:
        """
        Go on from where a checkpoint was taken.

        :param state: what :meth:`keep` gave
        """
        self.evidence = None if state is None else Evidence(**state)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, OffPolicyAlgorithm)
        is_trained = self.model._n_updates > 0
        if self.evidence is None and not is_trained and self.model.num_timesteps > self.model.learning_starts:
            before, after, actions, rewards = self._transitions()
            self.evidence = screen(before, after, actions, rewards, self.level)
            chosen = int(self.evidence.chosen.sum())
            if chosen:
                self._wire(self.evidence.chosen)
            self.logger.record("screening/transitions", len(rewards))
            self.logger.record("screening/chosen", chosen)
            if self.verbose:
                found = f"{chosen} of {before.shape[1]} features bear on the task"
                print(f"Screening {len(rewards)} transitions of the warm-up: {found}.", flush=True)
                if not chosen:
                    what = "So the topology stays as it was drawn. A longer warm-up (learning_starts) may find more."
                    print(what, flush=True)

    def _transitions(self) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """Read the warm-up's transitions of one step each: those of one environment, in order, then the next's."""
        assert isinstance(self.model, OffPolicyAlgorithm)
        buffer, env = self.model.replay_buffer, self.model.get_vec_normalize_env()
        assert buffer is not None
        n_envs, features = buffer.n_envs, int(np.prod(self.model.observation_space.shape or ()))
        steps = min(_warm_up(self.model), buffer.size(), max(1000, MOST_NUMBERS // features) // n_envs)
        rows = np.tile((buffer.pos - buffer.size() + np.arange(steps)) % buffer.buffer_size, n_envs)
        copies = np.repeat(np.arange(n_envs), steps)
        before, after = (x.reshape(len(rows), -1) for x in _observations(buffer, rows, copies, env))
        actions = th.as_tensor(buffer.actions[rows, copies]).reshape(len(rows), -1)
        if isinstance(self.model.action_space, Discrete):  # the last action is what the others are compared with
            actions = th.nn.functional.one_hot(actions.flatten().long(), int(self.model.action_space.n))[:, :-1]
        rewards = buffer._normalize_reward(buffer.rewards[rows, copies], env)
        return before, after, actions.float(), th.as_tensor(rewards).float()

    def _wire(self, chosen: th.Tensor) -> None:
        seed = self.model.seed if self.seed is None else self.seed
        generator = th.Generator()
        if seed is None:
            generator.seed()
        else:
            # Not the seed itself, nor the one of the topology's updates: their random numbers would come again.
            generator.manual_seed(int(np.random.SeedSequence([seed, 2]).generate_state(1, np.uint64)[0]))
        inputs = {network.layers[0] for network in networks_of(self.model.policy).values()}
        for name, (layer, optimizer, followers) in online_layers(self.model.policy).items():
            if name not in inputs:
                continue
            # A critic of continuous actions reads these too, after the features.
            columns = th.nn.functional.pad(chosen, (0, layer.in_features - chosen.numel()), value=True)
            after = _connected(layer, columns.nonzero().flatten(), generator)
            nothing_kept = th.full((after.active,), -1, dtype=th.int64, device=after.device)
            rewire_layer(layer, Rewiring(layer.topology, after, nothing_kept), optimizer, followers)
            layer.draw_values(generator)
            for follower in followers:
                follower.load_state_dict(layer.state_dict())


def _warm_up(model: OffPolicyAlgorithm) -> int:
    """Count the steps of each environment: the random ones, and the first that a network chose, which knew nothing."""
    return model.learning_starts // model.n_envs + 1


def _observations(
    buffer: ReplayBuffer, rows: NDArray[np.int64], copies: NDArray[np.int64], env: VecNormalize | None
) -> tuple[th.Tensor, ...]:
    """Read observations and next observations of certain transitions; whoever draws noise again shows them himself."""
    if hasattr(buffer, "show"):
        return tuple(th.as_tensor(x).float() for x in buffer.show(rows, copies, env))
    if buffer.optimize_memory_usage:
        before, after = buffer.observations[rows, copies], buffer.observations[(rows + 1) % buffer.buffer_size, copies]
    else:
        before, after = buffer.observations[rows, copies], buffer.next_observations[rows, copies]
    return tuple(th.as_tensor(buffer._normalize_obs(x, env)).float() for x in (before, after))


def _connected(layer: SparseLinear, columns: th.Tensor, generator: th.Generator) -> Topology:
    """Connect some columns, at random and with the density that the layer has now."""
    possible, total = layer.out_features * columns.numel(), layer.out_features * layer.in_features
    count = max(1, (2 * possible * layer.values.numel() + total) // (2 * total))  # rounded, in whole numbers
    index = sample_distinct(possible, count, generator)
    positions = index // columns.numel() * layer.in_features + columns[index % columns.numel()]
    return Topology.from_positions((layer.out_features, layer.in_features), positions.to(layer.values.device))
