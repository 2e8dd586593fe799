"""
The zoo: trained agents that come with the package.

``zoo_agents/<algorithm>/<environment>/`` holds an agent as :func:`~sparse_rl.agents.load_agent` reads it, of which only
what acts is kept; ``card.yml`` and ``card.md``, which say how it was made and how well it does; its learning curve; and
some observations with its actions, by which one sees on another machine that it is the same agent.
``benchmarks/zoo.py`` makes these folders from finished runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_rl.envs import make
from sparse_rl.inputs import InputError
from sparse_rl.names import unknown
from sparse_rl.storage import read_yaml

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.type_aliases import GymEnv

FOLDER = Path(__file__).with_name("zoo_agents")
CARD = "card.yml"
EXAMPLES = "examples.safetensors"  # observations that it has met, and its actions then


@dataclass(frozen=True)
class ZooAgent:
    """
    An agent of the zoo, not loaded yet.

    :param folder: where its files are; the last parts of the path name the algorithm and the environment
    """

    folder: Path

    @property
    def algorithm(self) -> str:
        """Name of its algorithm, for example ``"anf-sac"``."""
        return self.folder.parent.name

    @property
    def environment(self) -> str:
        """Id of the environment in which it was trained, for example ``"HalfCheetah-noise98"``."""
        return self.folder.name

    @cached_property
    def card(self) -> dict[str, Any]:
        """What ``card.yml`` says; docs/zoo.md explains the keys."""
        return read_card(self.folder)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


def read_card(folder: Path) -> dict[str, Any]:
    """
    Read the card of an agent of the zoo.

    :param folder: the agent's folder
    :return: its keys and values; docs/zoo.md explains them
    :raises ValueError: if it is no card
    :raises OSError: if it cannot be read
    """
    file = folder / CARD
    card = read_yaml(file)
    if not isinstance(card, dict):
        raise InputError(f"{str(file)!r} is not an agent's card.")
    return card


def zoo(folder: Path | None = None) -> Sequence[ZooAgent]:
    """
    List the agents of the zoo.

    :param folder: another zoo than the one of the package, :data:`FOLDER`
    :return: all agents, by environment and algorithm
    """
    agents = [ZooAgent(file.parent) for file in (folder or FOLDER).glob(f"*/*/{CARD}")]
    return sorted(agents, key=lambda agent: (agent.environment, agent.algorithm))


def find(algorithm: str, environment: str) -> ZooAgent:
    """
    Find an agent of the zoo.

    :param algorithm: name of its algorithm, for example ``"anf-sac"``
    :param environment: id of its environment, for example ``"HalfCheetah-noise98"``
    :return: the agent
    :raises InputError: if there is none; the message says what comes near
    """
    agents = zoo()
    if algorithm not in (algorithms := {agent.algorithm for agent in agents}):
        raise InputError(unknown("algorithm of the zoo", algorithm, algorithms))
    mine = {agent.environment: agent for agent in agents if agent.algorithm == algorithm}
    if environment not in mine:
        message = unknown(f"environment of {algorithm} in the zoo", environment, mine)
        if others := [agent.algorithm for agent in agents if agent.environment == environment]:
            message += f" In {environment} there are: {', '.join(others)}."
        raise InputError(message)
    return mine[environment]


def load(
    algorithm: str, environment: str, env: "GymEnv | str | None" = None, device: str = "cpu", **changes: Any
) -> "BaseAlgorithm":
    """
    Load an agent of the zoo, to act: ``load("anf-sac", "HalfCheetah-noise98").predict(observation)``.

    :param algorithm: name of its algorithm; ``sparse-rl zoo`` lists them
    :param environment: id of the environment in which it was trained
    :param env: the environment in which it will act, or its id; it becomes the agent's (``get_env()``)
    :param device: where its network lives
    :param changes: arguments of the algorithm that go before the stored ones
    :return: the agent; it has no critics, and cannot go on learning
    :raises InputError: if there is no such agent, or ``env`` shows other observations, or takes other actions, than
        those it was trained with
    """
    from sparse_rl.agents.saved import load_agent

    agent = find(algorithm, environment)
    model = load_agent(agent.folder, device=device, **changes)
    if env is not None:
        env = make(env) if isinstance(env, str) else env
        for kind in ("observation_space", "action_space"):
            trained, given = getattr(model, kind), getattr(env, kind)
            if trained != given:
                raise InputError(
                    f"{algorithm} of the zoo was trained in {environment}, whose {kind} is {trained}; that of the "
                    f"environment given is {given}."
                )
        model.set_env(env)
    return model
