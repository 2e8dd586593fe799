"""Where a trained agent lies, by however it is named: a run's folder, an agent's folder, or its place in the zoo."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_rl.agents.saved import MODEL, SavedAgent, read_agent
from sparse_rl.agents.zoo import CARD, find, read_card, zoo
from sparse_rl.inputs import InputError, counted
from sparse_rl.training.existing import read_config
from sparse_rl.training.plan import protocol
from sparse_rl.training.run_folder import BEST_MODEL, SETTINGS, agent_folder, last_model


@dataclass(frozen=True)
class FoundAgent:
    """
    An agent that has been found; nothing of it has been loaded.

    :param agent: its folder; of a run it may not be there yet
    :param run: the folder of its run; ``None`` if nobody knows
    :param config: what the run's ``config.yml`` says
    :param card: what an agent's card says, if it has one: those of the zoo do
    :param which: of a run, ``"last"`` or ``"best"``; ``None`` for another one
    :param is_ours: whether it came with the package, so that it may import what it names
    """

    agent: Path
    run: Path | None = None
    config: Mapping[str, Any] | None = None
    card: Mapping[str, Any] | None = None
    which: str | None = None
    is_ours: bool = False

    def check(self) -> None:
        """
        Check that there is an agent.

        :raises InputError: if there is none, as before a run's first evaluation or its end
        """
        if not self.agent.is_dir():
            raise InputError(f"There is no agent in {str(self.agent)!r}, or none yet.")

    @property
    def algorithm(self) -> str | None:
        """Name of its algorithm; ``None`` if nobody knows."""
        return _text((self.config or {}).get("algo") if self.card is None else self.card.get("algorithm"))

    @property
    def environment(self) -> str | None:
        """Id of the environment in which it was trained; ``None`` if nobody knows."""
        return _text((self.config or {}).get("env") if self.card is None else self.card.get("environment"))

    @property
    def noise(self) -> str | None:
        """Protocol of the noise with which it was trained; ``None`` if nobody knows."""
        if self.card is None and self.config is not None:
            return _text(protocol(str(self.environment), str(self.config["hyperparameters"].get("replay"))))
        return _text((self.card or {}).get("noise"))


def find_agent(where: str, best: bool = False) -> FoundAgent:
    """
    Find a trained agent.

    :param where: a run's folder (``runs/anf-sac/HalfCheetah-noise98/1``), an agent's folder, with ``model.safetensors``
        (``runs/anf-sac/HalfCheetah-noise98/1/best_model.agent``), or an agent of the zoo
        (``anf-sac/HalfCheetah-noise98``)
    :param best: of a run: whether to take the agent that did best in an evaluation, instead of the last one
    :return: where it lies
    :raises ValueError: if there is none, or what describes it is damaged
    :raises OSError: if a file cannot be read
    """
    folder = Path(where)
    is_agent = (folder / MODEL).exists()
    if folder.is_dir() and not is_agent and ((folder / SETTINGS).exists() or not _is_in_the_zoo(where)):
        runs = [each for each in sorted(folder.iterdir()) if (each / SETTINGS).exists()]
        if runs and not (folder / SETTINGS).exists():
            raise InputError(
                f"{where!r} is the folder of {counted(len(runs), 'run')}: say which, for example {str(runs[-1])!r}."
            )
        config, which = read_config(folder), "best" if best else "last"
        return FoundAgent(agent_folder(folder / _file_names(config)[which]), folder, config, which=which)
    if best and (is_agent or _is_in_the_zoo(where)):
        raise InputError(f"{where!r} is not a run, so it has no best agent: leave out --best.")
    if not is_agent:
        folder = _in_the_zoo(where)
        return FoundAgent(folder, card=read_card(folder), is_ours=True)
    if (folder / CARD).exists():
        return FoundAgent(folder, card=read_card(folder))
    run = folder.absolute().parent
    if not (run / SETTINGS).exists():
        return FoundAgent(folder)
    config = read_config(run)
    names = _file_names(config).items()
    which_ = next((which for which, name in names if agent_folder(run / name).name == folder.name), None)
    return FoundAgent(folder, run, config, which=which_)


def read_found(where: str) -> SavedAgent:
    """
    Find a trained agent, and read it.

    :param where: see :func:`find_agent`; of a run the last agent is meant
    :return: what its files say
    :raises ValueError: if there is none, or a file is damaged
    :raises OSError: if a file cannot be read
    """
    found = find_agent(where)
    found.check()
    return read_agent(found.agent)


def _text(value: object) -> str | None:
    """Give what a file says as text that can be printed: it may be a stranger's, and the terminal obeys some."""
    return None if value is None else "".join(each if each.isprintable() else "?" for each in str(value))


def _file_names(config: Mapping[str, Any]) -> dict[str, str]:
    return {"best": BEST_MODEL, "last": last_model(str(config.get("env")))}


def _is_in_the_zoo(where: str) -> bool:
    return where in {f"{agent.algorithm}/{agent.environment}" for agent in zoo()}


def _in_the_zoo(where: str) -> Path:
    algorithm, slash, environment = where.partition("/")
    if (beside := agent_folder(Path(where))).is_dir() and Path(where).is_file():
        raise InputError(f"{where!r} is a file of Stable-Baselines3's: give the folder beside it, {str(beside)!r}.")
    if not slash or "/" in environment:
        raise InputError(
            f"There is no run or agent in {where!r}: expected a run's folder, such as "
            "runs/anf-sac/HalfCheetah-noise98/1, a folder with a model.safetensors, or an agent of the zoo, such as "
            "anf-sac/HalfCheetah-noise98 (`sparse-rl zoo` lists them)."
        )
    try:
        return find(algorithm, environment).folder
    except InputError as error:
        raise InputError(f"There is no folder {where!r}, and no such agent in the zoo. {error}") from error
