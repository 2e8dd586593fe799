"""
The search space: which keys of a recipe are varied, and how far.

In YAML a range is ``{low: 1e-4, high: 1e-2, log: true}``, a list is a choice; keys are nested or written with dots, as
``-params`` has them::

    learning_rate: {low: 1e-4, high: 3e-3, log: true}
    method.update_interval: {low: 100, high: 10_000, log: true}
    policy_kwargs: {net_arch: [[256, 256], [400, 300]]}
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_rl.agents.checks import method_settings
from sparse_rl.agents.recipe import flatten, learner_of
from sparse_rl.inputs import InputError, describe
from sparse_rl.names import unknown
from sparse_rl.storage import StorageError, parse_yaml, read_yaml_text
from sparse_rl.training.plan import Plan

if TYPE_CHECKING:
    from optuna.trial import Trial

#: Gives the plan of a run with these words after ``-params`` as well.
PlanFor = Callable[[Sequence[str]], Plan]
#: A value as Optuna stores it.
Value = bool | int | float | str | None
# What all trials have in common, or their returns could not be compared; and how it is given.
_COMMON = {
    "n_timesteps": "-n",
    "eval_freq": "--eval-freq",
    "eval_episodes": "--eval-episodes",
    "replay": "--replay",
    "n_envs": "--n-envs",
    "policy": "-params policy:...",
}
# By how much of a step a value may miss one of those that are drawn: Optuna's own bound.
_ROUNDING = 1e-8
_RANGE_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Range:
    """
    Numbers from ``low`` to ``high``, both included.

    :param low: the least
    :param high: the greatest
    :param log: whether their logarithms are drawn evenly
    :param step: the distance of two neighbours; ``None`` for 1 (whole numbers) or none
    :param whole: whether they are whole numbers
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def suggest(self, name: str, trial: "Trial") -> Value:
        """
        Have Optuna choose.

        :param name: name of the parameter
        :param trial: the trial that it is for
        :return: the value; if the trial has one already, that
        """
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(name, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def extremes(self) -> list[Value]:
        """Give the values that are allowed if all are: both ends, and one between them that is no whole number."""
        if self.whole:
            return [int(self.low), int(self.high)]
        return [self.low, self.high, self.low + 0.381966 * (self.high - self.low)]

    def holds(self, value: Any) -> bool:
        """
        Tell whether a value could be drawn.

        :param value: the value
        :return: whether it could
        """
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not self.low <= value <= self.high or (self.whole and value != int(value)):
            return False
        if self.step is None:
            return True
        steps = float(value - self.low) / self.step
        return abs(steps - round(steps)) < _ROUNDING


@dataclass(frozen=True)
class Choices:
    """
    Values of any kind.

    :param values: at least one; what Optuna cannot store, such as a list, is written as JSON
    """

    values: tuple[Value, ...]

    def suggest(self, name: str, trial: "Trial") -> Value:
        """
        Have Optuna choose; see :meth:`Range.suggest`.

        :param name: name of the parameter
        :param trial: the trial that it is for
        :return: the value
        """
        chosen: Value = trial.suggest_categorical(name, self.values)
        return chosen

    def extremes(self) -> list[Value]:
        """Give all values."""
        return list(self.values)

    def holds(self, value: Any) -> bool:
        """
        Tell whether a value is among them.

        :param value: the value
        :return: whether it is
        """
        return any(type(_storable(value)) is type(each) and _storable(value) == each for each in self.values)


Space = Mapping[str, Range | Choices]


def words_of(parameters: Mapping[str, Any]) -> list[str]:
    """
    Write parameters as ``-params`` takes them.

    :param parameters: values by dotted names
    :return: for example ``["learning_rate:0.001", "policy_kwargs.net_arch:[400, 300]"]``
    """
    return [f"{name}:{value if isinstance(value, str) else json.dumps(value)}" for name, value in parameters.items()]


def default_space(plan: Plan, fixed: Iterable[str] = ()) -> Space:
    """
    Give the space of an algorithm: learning rate, and, as far as it has them, sparsity, drop fraction and interval.

    :param plan: a run of the algorithm, with its recipe as it is
    :param fixed: keys that are not varied
    :return: the space
    :raises InputError: if nothing is left
    """
    recipe = plan.hyperparameters
    space: dict[str, Range | Choices] = {}
    if isinstance(rate := recipe.get("learning_rate"), float):
        space["learning_rate"] = Range(_round(rate / 10), _round(rate * 10), log=True)
    if "method" in recipe:
        name = recipe["method"]["name"]
        settings = method_settings(name)
        if "lambdas" not in recipe:
            # Neuroplastic expansion begins with its other sparsity, and becomes denser.
            space["sparsity"] = Range(0.0, 0.75) if name == "ne" else Range(0.5, 0.98)
        if "drop_fraction" in settings:
            space["method.drop_fraction"] = Range(0.01, 0.5, log=True)
        if "update_interval" in settings:
            space["method.update_interval"] = Range(100, 10_000, log=True, whole=True)
    space = {name: each for name, each in space.items() if not any(_overlap(name, other) for other in fixed)}
    if not space:
        raise InputError("Everything that would be varied has been given a value: leave one out, or give a --space.")
    return space


def _overlap(one: str, other: str) -> bool:
    """Tell whether two keys are one, or one is a part of the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def read_space(file: Path, plan: Plan, fixed: Iterable[str] = ()) -> Space:
    """
    Read a space from a YAML file.

    :param file: the file
    :param plan: a run with the recipe as it is; where its value is a whole number, a range has whole numbers
    :param fixed: keys that have been given a value otherwise
    :return: the space; its values are not checked yet
    :raises InputError: if it is not a space; the message says where and why
    """
    where = repr(str(file))
    try:
        document = parse_yaml(read_yaml_text(file), f"the space {where}")
    except (OSError, StorageError) as error:
        raise InputError(f"The space {where} cannot be read: {error}.") from error
    if not isinstance(document, dict) or not document:
        raise InputError(
            f"The space {where} must hold keys such as learning_rate: {{low: 1e-4, high: 1e-2, log: true}}, "
            f"not {describe(document)}."
        )
    try:
        space = {
            name: _entry(name, each, _lookup(plan.hyperparameters, name)) for name, each in flatten(document, _is_entry)
        }
        for name in space:
            if name in _COMMON:
                raise InputError(
                    f"{name} is the same for all trials, so that they can be compared: give {_COMMON[name]}."
                )
            if any(_overlap(name, other) for other in fixed):
                raise InputError(f"{name} is varied here, but has also been given a value: leave one of the two out.")
    except InputError as error:
        raise InputError(f"There is an error in the space {where}: {error}") from error
    return space


def check_space(space: Space, plan_for: PlanFor) -> None:
    """
    Check that a recipe may have the values of a space, one key at a time: a typo shall not cost a night.

    :param space: the space
    :param plan_for: makes plans, and refuses those that are not allowed
    :raises InputError: if it may not have one of them
    """
    from sparse_rl.agents.build import policy_arguments

    for name, entry in space.items():
        for value in entry.extremes():
            try:
                plan = plan_for(words_of({name: value}))
                recipe = plan.hyperparameters
                policy_arguments(learner_of(plan.algo), recipe.get("policy_kwargs") or {}, recipe.get("optimizer"))
            except InputError as error:
                raise InputError(f"The space cannot have {words_of({name: value})[0]}: {error}") from error


def as_it_is(space: Space, plan: Plan) -> dict[str, Value] | None:
    """
    Find the point of a space at which a recipe is as it is.

    :param space: the space
    :param plan: a run with that recipe
    :return: values by name; ``None`` if it lies outside
    """
    point = {name: _lookup(plan.hyperparameters, name) for name in space}
    if not all(entry.holds(point[name]) for name, entry in space.items()):
        return None
    return {name: _storable(value) for name, value in point.items()}


def _is_entry(value: Any) -> bool:
    """Tell whether it stands for values of one key: a range, a list, or what is neither, and an error."""
    return not isinstance(value, dict) or not value or any(each in value for each in _RANGE_KEYS[:2])


def _entry(name: str, given: Any, now: Any) -> Range | Choices:
    if isinstance(given, list) and given:
        return Choices(tuple(_storable(value) for value in given))
    if not isinstance(given, dict) or not given:
        raise InputError(
            f"{name} must be a range such as {{low: 0.5, high: 0.9}} or a list of values, not {describe(given)}."
        )
    _check_range(name, given)
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    are_whole = all(isinstance(each, int) for each in (low, high, 1 if step is None else step))
    if are_whole and not isinstance(now, float):
        return Range(low, high, log, step, whole=True)
    is_count = isinstance(now, int) and not isinstance(now, bool)
    if is_count and all(each == int(each) for each in (low, high, step or 1)):
        return Range(int(low), int(high), log, None if step is None else int(step), whole=True)
    return Range(float(low), float(high), log, None if step is None else float(step))


def _check_range(name: str, given: Mapping[Any, Any]) -> None:
    for key in given:
        if key not in _RANGE_KEYS:
            raise InputError(unknown(f"key of the range of {name}", key, _RANGE_KEYS))
    if missing := {"low", "high"} - given.keys():
        raise InputError(f"The range of {name} needs {missing.pop()!r} too.")
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    for key, value in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < float("inf"):
            raise InputError(f"{key!r} of {name} must be a number, not {describe(value)}.")
    if not isinstance(log, bool):
        raise InputError(f"'log' of {name} must be true or false, not {describe(log)}.")
    if low >= high:
        raise InputError(f"'low' of {name}, {low}, must be less than 'high', {high}.")
    if step is not None and (step <= 0 or step > high - low):
        raise InputError(f"'step' of {name} must be above 0 and not more than {high - low:g}, not {step}.")
    if log and step is not None:
        raise InputError(f"The range of {name} can have 'log: true' or a 'step', not both.")
    if log and low <= 0:
        raise InputError(f"'low' of {name} must be above 0 for 'log: true', not {low}.")


def _storable(value: Any) -> Value:
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _lookup(recipe: Mapping[str, Any], name: str) -> Any:
    value: Any = recipe
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _round(number: float) -> float:
    return float(f"{number:.3g}")
