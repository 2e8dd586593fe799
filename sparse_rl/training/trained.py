"""
Trained agents, and the environments in which they belong; :mod:`~sparse_rl.training.finding` says where they lie.

Nothing is unpickled.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv

from sparse_rl import envs
from sparse_rl.agents import load_agent
from sparse_rl.agents.learners import learner_class
from sparse_rl.agents.recipe import learner_of
from sparse_rl.agents.replay.normalization import Normalization
from sparse_rl.agents.saved import view_of
from sparse_rl.inputs import InputError
from sparse_rl.names import is_own
from sparse_rl.training.finding import FoundAgent, find_agent
from sparse_rl.training.vec_envs import make_vec_env, set_phase


class _Normalized(gym.wrappers.TransformObservation[Any, Any, Any]):
    """Shows what an agent sees: other values, of the same features."""

    @property
    def feature_names(self) -> list[str]:
        return envs.feature_names(self.env)


@dataclass(frozen=True)
class Trained:
    """
    A trained agent, and the environment in which it belongs.

    :param model: the agent, to act: it has no environment yet
    :param environment: id of its environment; ``None`` if nobody knows
    :param title: one line for people: algorithm, environment, noise protocol, and which agent of its run it is
    :param env_kwargs: arguments of the environment
    :param phase: the phase of a permuted environment whose order of the features it knows; ``None`` if that is not
        known, or features are not permuted
    :param normalization: through what it sees observations; ``None`` if it sees them as they are
    :param folder: the folder of its run, or its own; ``None`` for an agent of the zoo
    """

    model: BaseAlgorithm
    environment: str | None
    title: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    phase: int | None = None
    normalization: Normalization | None = None
    folder: Path | None = None

    def vec_env(self, seed: int = 0) -> VecEnv:
        """
        Make its environment, in the form in which Stable-Baselines3 evaluates agents.

        :param seed: seed of the environment
        :return: one copy of the environment, of which the caller has to take care
        :raises ValueError: if it cannot be made, or is none that this agent can act in
        """
        env = make_vec_env(self._known_environment(), 1, seed, env_kwargs=self.env_kwargs)
        try:
            self._check_spaces(env)
            set_phase(env, self._phase_in(env.has_attr("permutation_seed")))
            return env if self.normalization is None else self.normalization.wrap(env)
        except BaseException:
            env.close()
            raise

    def env(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """
        Make its environment as Gymnasium has it, to look at; observations are as the agent sees them.

        :param render_mode: Gymnasium's name of how to draw: ``"human"``, ``"rgb_array"``
        :return: the environment, of which the caller has to take care
        :raises ValueError: if it cannot be made, or is none that this agent can act in
        """
        kwargs = dict(self.env_kwargs)
        if render_mode is not None:  # not all environments know it
            kwargs["render_mode"] = render_mode
        env = envs.make(self._known_environment(), **kwargs)
        try:
            self._check_spaces(env)
            phase = self._phase_in(env.has_wrapper_attr("permutation_seed"))
            if phase is not None:
                env.get_wrapper_attr("set_phase")(phase)
            if self.normalization is not None:
                env = _Normalized(env, self.normalization.show, env.observation_space)
        except BaseException:
            env.close()
            raise
        return env

    @property
    def needs_mujoco(self) -> bool:
        """Whether its environment is one of MuJoCo's, which are drawn through OpenGL."""
        return envs.is_mujoco(self._known_environment())

    def _known_environment(self) -> str:
        if self.environment is None:
            raise InputError(
                "The agent does not say in which environment it was trained: give one, for example "
                "--env HalfCheetah-noise98."
            )
        return self.environment

    def _check_spaces(self, env: Any) -> None:
        try:
            check_for_correct_spaces(env, self.model.observation_space, self.model.action_space)
        except ValueError as error:
            raise InputError(f"The agent cannot act in {self.environment}. {error}.") from error

    def _phase_in(self, is_permuted: bool) -> int | None:
        """Give the phase for an environment; in another one the agent would take each feature for another."""
        if not is_permuted:
            if self.phase:
                raise InputError(
                    f"The features of {self.environment} are not permuted, but the agent knows them in the order of "
                    f"phase {self.phase}: choose an environment with -permute<N>, or --phase 0."
                )
            return None
        if self.phase is None:
            raise InputError(
                f"The features of {self.environment} change places, and nothing says in which order the agent knows "
                "them: give the phase with --phase; 0 is the order before the first change."
            )
        return self.phase


def open_trained(
    where: str, best: bool = False, env: str | None = None, phase: int | None = None, trust: bool = False
) -> Trained:
    """
    Open a trained agent.

    :param where: a run's folder, an agent's folder or an agent of the zoo; see
        :func:`~sparse_rl.training.finding.find_agent`
    :param best: of a run: whether to take the agent that did best in an evaluation, instead of the last one
    :param env: id of another environment than that in which it was trained; it gets no ``env_kwargs``, which belong to
        the other one
    :param phase: another phase of a permuted environment than that in which it was saved
    :param trust: whether to import the package that a folder's environment id names, as in ``"package:Id"``: a run may
        be a stranger's, but a package is code; one that is imported already needs no trust
    :return: the agent
    :raises ValueError: if there is none, or a file is damaged
    :raises OSError: if a file cannot be read
    """
    found = find_agent(where, best)
    return replace(open_found(found, env, phase, trust), folder=None if found.is_ours else Path(where))


def open_found(found: FoundAgent, env: str | None = None, phase: int | None = None, trust: bool = False) -> Trained:
    """
    Open a trained agent that has been found.

    :param found: where it lies
    :param env: see :func:`open_trained`
    :param phase: see :func:`open_trained`
    :param trust: see :func:`open_trained`
    :return: the agent
    :raises ValueError: if a file is damaged
    :raises OSError: if a file cannot be read
    """
    _check_trust(found, env, trust)
    config = found.config or {}
    trained_in = found.environment
    env_kwargs = config.get("env_kwargs") or {}
    if not isinstance(env_kwargs, dict) or not all(isinstance(key, str) for key in env_kwargs):
        raise InputError(f"env_kwargs of {str(found.run)!r} must be arguments by name, not {env_kwargs!r}.")
    found.check()
    model = load_agent(found.agent)
    view = view_of(model)
    environment = trained_in if env is None else env
    phase = view.phase if phase is None else phase
    title = _title(found, model, trained_in, environment)
    return Trained(model, environment, title, env_kwargs if env is None else {}, phase, view.normalization)


def _title(found: FoundAgent, model: BaseAlgorithm, trained_in: str | None, environment: str | None) -> str:
    """Say what it is, where it comes from, and where it acts."""
    if found.card is not None:
        which = "agent of the zoo" if found.is_ours else found.agent.name
    elif found.config is not None:
        which = f"{found.which} agent" if found.which else found.agent.name
    else:
        return f"{type(model).__name__} of {str(found.agent)!r}{f' on {environment}' if environment else ''}"
    if environment == trained_in:
        return f"{found.algorithm} on {environment}, trained with {found.noise}, {which}"
    return f"{found.algorithm}, trained in {trained_in} with {found.noise}, {which}, acting in {environment}"


def _check_trust(found: FoundAgent, env: str | None, trust: bool) -> None:
    """Do not let a stranger's folder import anything."""
    learner = learner_of(str((found.config or {}).get("algo", "sac")))
    environment = found.environment or "" if env is None else ""  # another one is acted in, if one is given
    for kind, name in (("environment", environment), ("learner", learner)):
        package = name.rpartition(":")[0]
        if package and package not in sys.modules and not (trust or found.is_ours):
            where = found.agent if found.run is None else found.run
            raise InputError(
                f"The {kind} {name!r} of {str(where)!r} imports the package {package!r}, which can run any code: add "
                "--trust if you know it."
            )
    if is_own(learner):
        learner_class(learner)  # a description of its agents can name it from now on
