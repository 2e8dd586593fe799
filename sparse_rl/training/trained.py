"""
Trained agents, however they are named: by a run's folder, an agent's folder, or their place in the zoo.

Nothing is unpickled. The agent of a run that was made before there were ``model.safetensors`` is built from
``config.yml``, and filled with the tensors of its zip file.
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
from sparse_rl.agents import load_agent, load_normalization
from sparse_rl.agents.build import describe_networks, learner_defaults, make_model
from sparse_rl.agents.checks import InputError, check_recipe
from sparse_rl.agents.filling import fill
from sparse_rl.agents.foreign import read_zip
from sparse_rl.agents.learners import learner_class
from sparse_rl.agents.normalization import Normalization
from sparse_rl.agents.recipe import check_algorithm, learner_of, read_yaml
from sparse_rl.agents.saved import MODEL
from sparse_rl.agents.zoo import CARD, find, read_card, zoo
from sparse_rl.names import is_own
from sparse_rl.training.existing import read_config
from sparse_rl.training.run_folder import agent_folder, file_name
from sparse_rl.training.vec_envs import make_vec_env, set_phase


@dataclass(frozen=True)
class Trained:
    """
    A trained agent, and the environment in which it belongs.

    :param model: the agent, to act: it has no environment yet
    :param environment: id of its environment; ``None`` if nobody knows
    :param title: one line for people: algorithm, environment, noise protocol, and which agent of its run it is
    :param env_kwargs: arguments of the environment
    :param phase: the phase of a permuted environment in which it was saved; ``None`` if features are not permuted
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
            set_phase(env, self.phase)
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
        env = envs.make(self._known_environment(), **self.env_kwargs, render_mode=render_mode)
        try:
            self._check_spaces(env)
            if self.phase is not None:
                env.get_wrapper_attr("set_phase")(self.phase)
            if self.normalization is not None:
                env = gym.wrappers.TransformObservation(env, self.normalization.show, env.observation_space)
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


def open_trained(
    where: str, best: bool = False, env: str | None = None, phase: int | None = None, trust: bool = False
) -> Trained:
    """
    Open a trained agent.

    :param where: a run's folder (``runs/anf-sac/HalfCheetah-noise98/1``), an agent's folder, with ``model.safetensors``
        (``runs/anf-sac/HalfCheetah-noise98/1/best_model.agent``), or an agent of the zoo
        (``anf-sac/HalfCheetah-noise98``)
    :param best: of a run: whether to take the agent that did best in an evaluation, instead of the last one
    :param env: id of another environment than that in which it was trained
    :param phase: another phase of a permuted environment than that in which it was saved
    :param trust: whether to import the package that a folder's environment id names, as in ``"package:Id"``: a run may
        be a stranger's, but a package is code; one that is imported already needs no trust
    :return: the agent
    :raises ValueError: if there is none, or a file is damaged
    :raises OSError: if a file cannot be read
    """
    folder = Path(where)
    is_agent = (folder / MODEL).exists()
    if folder.is_dir() and not is_agent and ((folder / "config.yml").exists() or not _is_in_the_zoo(where)):
        return replace(_of_a_run(folder, best, env, phase, trust), folder=folder)
    if best:
        raise InputError(f"{where!r} is one agent, and no run of which there could be a best one: leave out --best.")
    if is_agent:
        return replace(_of_a_folder(folder, env, phase, trust), folder=folder)
    return _of_a_card(_in_the_zoo(where), env, phase, trust=True)


def _is_in_the_zoo(where: str) -> bool:
    return where in {f"{agent.algorithm}/{agent.environment}" for agent in zoo()}


def _in_the_zoo(where: str) -> Path:
    algorithm, slash, environment = where.partition("/")
    if not slash or "/" in environment:
        raise InputError(
            f"There is no run in {where!r}, nor an agent: expected a run's folder, such as "
            "runs/anf-sac/HalfCheetah-noise98/1, a folder with a model.safetensors, or an agent of the zoo, such as "
            "anf-sac/HalfCheetah-noise98 (`sparse-rl zoo` lists them)."
        )
    try:
        return find(algorithm, environment).folder
    except InputError as error:
        raise InputError(f"There is no folder {where!r}, and no such agent in the zoo. {error}") from error


def _of_a_run(folder: Path, best: bool, env: str | None, phase: int | None, trust: bool) -> Trained:
    config = read_config(folder)
    environment, env_kwargs = _place(config, env, trust, folder)
    file = folder / ("best_model.zip" if best else f"{file_name(str(config.get('env')))}.zip")
    normalization = None
    if agent_folder(file).exists():
        model, normalization = _load(agent_folder(file))
    else:
        model = _from_zip(file, config, environment, env_kwargs)
    if phase is None and env is None:
        phase = _phase_of_agent(folder, "best" if best else "last")
    title = f"{_title(config, environment)}, {'best' if best else 'last'} agent"
    return Trained(model, environment, title, env_kwargs, phase, normalization)


def _of_a_folder(folder: Path, env: str | None, phase: int | None, trust: bool) -> Trained:
    """Open an agent that lies in a folder of its own; its card, or the run around it, may say where it belongs."""
    if (folder / CARD).exists():
        return _of_a_card(folder, env, phase, trust)
    run = folder.absolute().parent
    if not (run / "config.yml").exists():
        model, normalization = _load(folder)
        title = f"{type(model).__name__} of {str(folder)!r}{f' on {env}' if env else ''}"
        return Trained(model, env, title, {}, phase, normalization)
    config = read_config(run)
    environment, env_kwargs = _place(config, env, trust, folder)
    names = {"best": "best_model.zip", "last": f"{file_name(str(config.get('env')))}.zip"}
    which = next((which for which, name in names.items() if agent_folder(run / name).name == folder.name), None)
    if phase is None and env is None and which is not None:
        phase = _phase_of_agent(run, which)
    title = f"{_title(config, environment)}, {f'{which} agent' if which else folder.name}"
    model, normalization = _load(folder)
    return Trained(model, environment, title, env_kwargs, phase, normalization)


def _of_a_card(folder: Path, env: str | None, phase: int | None, trust: bool) -> Trained:
    card = read_card(folder)
    environment, _ = _place({"env": card.get("environment")}, env, trust, folder)
    title = f"{card.get('algorithm')} on {environment}, trained with {card.get('noise')}, agent of the zoo"
    model, normalization = _load(folder)
    return Trained(model, environment, title, {}, phase, normalization)


def _load(folder: Path) -> tuple[BaseAlgorithm, Normalization | None]:
    return load_agent(folder), load_normalization(folder)


def _title(config: Mapping[str, Any], environment: str) -> str:
    return f"{config.get('algo')} on {environment}, trained with {config['hyperparameters'].get('replay')} noise"


def _place(config: Mapping[str, Any], env: str | None, trust: bool, folder: Path) -> tuple[str, Mapping[str, Any]]:
    """Find the environment, and do not let a stranger's folder import anything."""
    environment, learner = str(config.get("env")), learner_of(str(config.get("algo", "sac")))
    for kind, name in (("environment", environment if env is None else ""), ("learner", learner)):
        package = name.rpartition(":")[0]
        if package and package not in sys.modules and not trust:
            raise InputError(
                f"The {kind} {name!r} of {str(folder)!r} imports the package {package!r}, which can run any code: add "
                "--trust if you know it."
            )
    if is_own(learner):
        learner_class(learner)  # a description of its agents can name it from now on
    return (environment, config.get("env_kwargs") or {}) if env is None else (env, {})


def _from_zip(file: Path, config: Mapping[str, Any], environment: str, env_kwargs: Mapping[str, Any]) -> BaseAlgorithm:
    """Build the agent that ``config.yml`` describes, and fill in the tensors of its zip file."""
    env = make_vec_env(environment, 1, 0, env_kwargs=env_kwargs)
    try:
        algorithm = str(config.get("algo"))
        check_algorithm(algorithm)
        learner = learner_of(algorithm)
        defaults = learner_defaults(learner)
        # Nothing will be learnt: neither a large buffer nor fresh noise for it is needed.
        smallest = {"buffer_size": 1} if "buffer_size" in defaults else {"n_steps": 2, "batch_size": 2}
        smallest = {key: value for key, value in smallest.items() if key in defaults}
        hyperparameters = check_recipe(config["hyperparameters"] | {"replay": "observed"} | smallest, defaults)
        if not file.exists():
            raise InputError(f"There is no agent {str(file)!r}.")
        _, policy, variables = read_zip(file)
        describe_networks(learner, hyperparameters, env).check(repr(str(file.with_name("config.yml"))))
        model = make_model(learner, hyperparameters, env, seed=0, device="cpu")
        fill(model, policy, variables, repr(str(file)))
    finally:
        env.close()
    return model


def _phase_of_agent(folder: Path, which: str) -> int | None:
    file = folder / "phases.yml"
    if not file.exists():
        return None
    phases = read_yaml(file)
    phase = phases.get(which) if isinstance(phases, dict) else None
    if not isinstance(phase, int) or phase < 0:
        raise InputError(f"{str(file)!r} does not name a phase; give one with --phase.")
    return phase
