"""What a run shall do: the words of the command line, the recipe, and the defaults, settled into one plan."""

import secrets
from argparse import Namespace
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_rl.agents.checks import SPARSE_KEYS, check_recipe
from sparse_rl.agents.recipe import Recipe, flatten, learner_of, load_recipe, override, parse_assignments
from sparse_rl.envs import EnvironmentId
from sparse_rl.inputs import InputError, Number

if TYPE_CHECKING:
    from sparse_rl.agents.saved import SavedAgent

MAX_SEED = 2**31 - 1
#: Of evaluations after training: far from the seeds that people choose for it, with which episodes would begin as they
#: did in training, with the same noise; and from those of the evaluations by which the best agent is chosen.
EVALUATION_SEED = 1_000_000
#: Environment steps between two checkpoints.
CHECKPOINT_FREQUENCY = 10_000
# Flags that change the key of the same name.
RECIPE_FLAGS = (
    "n_timesteps", "n_envs", "eval_freq", "eval_episodes", "sparsity", "distribution", "layers", "kernel", "replay",
    "buffer_size",
)  # fmt: skip
#: How noise is learnt from, for people.
PROTOCOLS = ("redrawn noise", "observed noise", "no noise")
METHOD_FLAGS = ("drop_fraction", "update_interval")
MOST_THREADS = 4096
MOST_STEPS = 2**24  # gradient steps in which a first topology update is looked for
DEFAULTS: Mapping[str, Any] = {"n_envs": 1, "policy": "MlpPolicy", "eval_episodes": 5}


@dataclass(frozen=True)
class Plan:
    """
    Everything that decides how a run goes; ``config.yml`` records it.

    :param algo: name of the algorithm
    :param env: id of the environment
    :param seed: the seed of everything that is drawn
    :param hyperparameters: the complete recipe: what was left out has been filled in with defaults
    :param variant: the recipe's variant
    :param env_kwargs: arguments of the environment
    :param vec_env: ``"dummy"`` or ``"subproc"``
    :param n_eval_envs: number of copies of the environment for evaluation
    :param save_freq: environment steps between two agents ``rl_model_<n>_steps``; 0 or less for none
    :param log_interval: episodes between two lines of the logs
    :param device: where the networks live
    :param num_threads: threads of PyTorch; 0 or less for its own choice
    :param trained_agent: where the agent lies whose networks the run begins with; ``None`` for new networks
    :param trained_agent_steps: environment steps that this agent had learnt for
    :param notes: what was settled otherwise than one might expect, in sentences
    """

    algo: str
    env: str
    seed: int
    hyperparameters: Mapping[str, Any]
    variant: str | None = None
    env_kwargs: Mapping[str, Any] | None = None
    vec_env: str = "dummy"
    n_eval_envs: int = 1
    save_freq: int = -1
    log_interval: int = 4
    device: str = "auto"
    num_threads: int = -1
    trained_agent: str | None = None
    trained_agent_steps: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def protocol(self) -> str:
        """How noise is learnt from, for people: ``"redrawn noise"``, ``"observed noise"`` or ``"no noise"``."""
        return protocol(self.env, self.hyperparameters["replay"])

    @property
    def title(self) -> str:
        """One line for people: algorithm, environment, protocol, seed."""
        return f"{self.algo} on {self.env}, {self.protocol}, seed {self.seed}"


def protocol(environment: str, replay: str) -> str:
    """
    Name how an agent learns from noise.

    :param environment: id of its environment
    :param replay: ``"redrawn"`` or ``"observed"``
    :return: for people: ``"redrawn noise"``, ``"observed noise"`` or ``"no noise"``
    :raises EnvironmentIdError: if it is no id
    """
    return f"{replay} noise" if EnvironmentId.parse(environment).noise is not None else "no noise"


def read_recipe(args: Namespace, environment: EnvironmentId) -> Recipe:
    """
    Read the recipe that a command line asks for, and apply its changes.

    :param args: the parsed command line
    :param environment: its environment
    :return: the recipe; its values are not checked yet
    :raises InputError: if there is no such recipe, or a change makes no sense for it
    """
    recipe = load_recipe(args.algo, base_name(environment), args.variant, args.conf_file)
    flags = {name: getattr(args, name) for name in RECIPE_FLAGS}
    changes: Recipe = {name: value for name, value in flags.items() if value is not None}
    method = {name: getattr(args, name) for name in METHOD_FLAGS if getattr(args, name) is not None}
    given = parse_assignments(args.hyperparams)
    if method:  # with a name, a method of -params is a whole one
        its = given.get("method", {})
        given["method"] = {**method, **its} if isinstance(its, dict) else its
    return change_recipe(args.algo, recipe, override(changes, given))


def change_recipe(algo: str, recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """
    Change a recipe.

    :param algo: the algorithm that it belongs to
    :param recipe: the recipe
    :param changes: keys and values
    :return: the changed recipe; its values are not checked yet
    :raises InputError: if the algorithm is dense, and a key is of sparse networks
    """
    if "method" not in recipe:
        for key in (*SPARSE_KEYS, "method"):
            if key in changes:
                raise InputError(f"{algo} is dense, so {key!r} has no effect; anf-{algo} is sparse.")
    return override(recipe, changes)


def base_name(environment: EnvironmentId) -> str:
    """
    Name an environment as recipes do.

    :param environment: for example ``sparse_rl:HalfCheetah-v4-noise98``
    :return: for example ``"HalfCheetah"``
    """
    return environment.base.rpartition(":")[2]


def make_plan(args: Namespace, environment: EnvironmentId, recipe: Recipe, learner_defaults: Mapping[str, Any]) -> Plan:
    """
    Check a recipe, fill in what it leaves open, and settle everything else that decides a run.

    :param args: the parsed command line
    :param environment: its environment
    :param recipe: what :func:`read_recipe` gave
    :param learner_defaults: the arguments that the learner takes from a recipe, with their defaults
    :return: the plan
    :raises InputError: if a value is not allowed
    """
    is_off_policy = "buffer_size" in learner_defaults
    learner = learner_of(args.algo)
    if recipe.get("screening") is not None and not is_off_policy:
        raise InputError(
            f"Screening looks at the random warm-up in a replay buffer, and {learner} has neither: choose another "
            "method, or an off-policy learner such as sac."
        )
    trained, notes = None, list[str]()
    if args.trained_agent is not None:
        trained, recipe, notes = _begin_with_trained(args, environment, recipe)
    hyperparameters = {**DEFAULTS, **learner_defaults, **check_recipe(recipe, learner_defaults)}
    hyperparameters = {key: value for key, value in hyperparameters.items() if value is not None}
    if "episode" in _listed(hyperparameters.get("train_freq")) and hyperparameters["n_envs"] > 1:
        raise InputError(
            f"With a train_freq in episodes Stable-Baselines3 wants one environment, not {hyperparameters['n_envs']}: "
            "give --n-envs 1, or a train_freq in steps."
        )
    obstacle = _obstacle_to_redrawing(environment)
    if obstacle is None and not is_off_policy:
        obstacle = f"cannot redraw its noise for {learner}, which learns from what it has just seen, without a replay"
    is_chosen = "replay" in hyperparameters
    if hyperparameters.setdefault("replay", "observed" if obstacle else "redrawn") == "redrawn" and obstacle:
        raise InputError(f"{args.env!r} {obstacle}: use `--replay observed`.")
    if "normalize" in hyperparameters:
        # The discount of the learner, as in rl-baselines3-zoo.
        normalize = {"gamma": hyperparameters["gamma"], **hyperparameters["normalize"]}
        hyperparameters["normalize"] = normalize
        if environment.permute is not None and normalize.get("norm_obs", True):
            raise InputError(
                "The statistics of 'normalize' belong to positions in the observation, and after a permutation each "
                "position shows another feature: leave out -permute<N>, or give normalize:{norm_obs: false}."
            )
    steps = hyperparameters["n_timesteps"]
    hyperparameters.setdefault("eval_freq", max(1, min(10_000, steps // 2)))
    if environment.noise is not None and not is_off_policy and not is_chosen:
        notes.append(f"{learner} has no replay buffer: it learns from noise as it was observed; nothing is redrawn.")
    notes += _shorten_warm_up(hyperparameters, _sets_learning_starts(args, environment))
    notes += _missed_updates(hyperparameters)
    return Plan(
        algo=args.algo,
        env=args.env,
        seed=secrets.randbelow(MAX_SEED)
        if args.seed == -1
        else int(Number(0, MAX_SEED, whole=True)("seed", args.seed)),
        hyperparameters=hyperparameters,
        variant=args.variant,
        env_kwargs=parse_assignments(args.env_kwargs),
        vec_env=args.vec_env,
        n_eval_envs=int(Number(1, whole=True)("n_eval_envs", args.n_eval_envs)),
        save_freq=args.save_freq,
        log_interval=int(Number(1, whole=True)("log_interval", args.log_interval)),
        device=args.device,
        num_threads=int(Number(high=MOST_THREADS, whole=True)("num_threads", args.num_threads)),
        trained_agent=None if trained is None else _lasting(args.trained_agent),
        trained_agent_steps=None if trained is None else trained.num_timesteps,
        notes=tuple(notes),
    )


def _begin_with_trained(
    args: Namespace, environment: EnvironmentId, recipe: Recipe
) -> tuple["SavedAgent", Recipe, list[str]]:
    """Read the agent that a run begins with, and let the recipe make its networks."""
    from sparse_rl.agents.trained_agent import check_trained_agent, with_networks_of
    from sparse_rl.training.finding import read_found

    agent = read_found(str(args.trained_agent))
    check_trained_agent(agent, learner_of(args.algo), "method" in recipe)
    ours = dict(flatten(load_recipe(args.algo, base_name(environment), args.variant)))
    chosen = {name for name, value in flatten(recipe) if ours.get(name) != value}
    chosen |= {name for name in RECIPE_FLAGS if getattr(args, name, None) is not None}
    chosen |= {name for name, _ in flatten(parse_assignments(args.hyperparams))}
    return agent, *with_networks_of(agent, recipe, chosen)


def _lasting(where: Path) -> str:
    """Name an agent so that it is found from any folder."""
    return str(where.absolute() if where.exists() else where)


def _shorten_warm_up(hyperparameters: dict[str, Any], is_chosen: bool) -> list[str]:
    """Shorten a warm-up that leaves too little of a short run for learning, unless the user wants it so; say which."""
    steps, given = hyperparameters["n_timesteps"], hyperparameters.get("learning_starts", 0)
    if is_chosen:
        return [f"nothing will be learnt: learning_starts is {given}, of {steps} steps."] if given >= steps else []
    longest, settled, part, warning = steps - 1, steps // 10, "a tenth", ""
    if "screening" in hyperparameters:  # the more it sees, the more it finds
        longest = settled = steps // 2
        part, warning = "half", " Screening may miss features in so short a warm-up."
    if given <= longest:
        return []
    hyperparameters["learning_starts"] = settled
    return [
        f"learning_starts reduced from {given} to {settled}, {part} of all steps, so that the agent learns.{warning}"
    ]


def _missed_updates(hyperparameters: Mapping[str, Any]) -> list[str]:
    """Say that a run ends before its first topology update, or before a method has reached its final sparsity."""
    from sparse_rl.agents.build import gradient_steps_of, in_gradient_steps, last_topology_update, make_method
    from sparse_rl.topology.schedules import BudgetSchedule

    if "method" not in hyperparameters or "episode" in _listed(hyperparameters.get("train_freq")):  # of unknown length
        return []
    method = make_method(in_gradient_steps(hyperparameters))
    last = last_topology_update(hyperparameters, method.needs_gradient)
    end = method.end if isinstance(method, BudgetSchedule) else None
    possible = f"the run can make those up to step {last} only. Give"
    if not method.updates_between(0, last):
        # A method of one's own need not have an interval: ask it.
        first = bisect_left(range(MOST_STEPS), True, key=lambda step: method.updates_between(0, step) > 0)
        if first == MOST_STEPS or not gradient_steps_of(hyperparameters):  # it is static; or nothing is learnt at all
            return []
        if last == 0:
            return ["no topology update will come: the run is too short for any. Give a larger -n."]
        earlier = "a smaller --update-interval" if end is None else "a smaller --update-interval, `begin` or `end`"
        return [
            f"no topology update will come: the first falls due at gradient step {first}, and {possible} {earlier}, or "
            "a larger -n."
        ]
    if end is not None and last < end:
        return [
            f"the networks will not get to their final sparsity: the update for it falls due at gradient step {end}, "
            f"and {possible} a smaller `end`, or a larger -n."
        ]
    return []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _obstacle_to_redrawing(environment: EnvironmentId) -> str | None:
    if environment.noise is None:
        return "has no noise features, so there is no noise to redraw"
    if environment.distribution == "other":
        return "shows what other copies of the environment do, which cannot be redrawn"
    return None


def _sets_learning_starts(args: Namespace, environment: EnvironmentId) -> bool:
    """Tell whether the user chose ``learning_starts``: by a word, or in a file."""
    if "learning_starts" in parse_assignments(args.hyperparams):
        return True
    name = base_name(environment)
    own, ours = (load_recipe(args.algo, name, args.variant, file) for file in (args.conf_file, None))
    return own.get("learning_starts") != ours.get("learning_starts")
