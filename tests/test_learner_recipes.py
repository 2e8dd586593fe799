"""Any method with any learner: a recipe is composed of a part for each, and what does not fit gets a sentence."""

import importlib.util
import inspect
from typing import Any

import pytest
from gymnasium import spaces
from plan_cases import settle
from sb3_contrib import TQC
from stable_baselines3 import PPO

from sparse_rl import topology
from sparse_rl.agents import SAC, checks, classes, foreign
from sparse_rl.agents.build import gradient_steps_of, in_gradient_steps, learner_defaults, make_method, make_model
from sparse_rl.agents.checks import check_recipe
from sparse_rl.agents.classes import LEARNERS
from sparse_rl.agents.learners import check_actions, learner_class
from sparse_rl.agents.recipe import algorithms, learner_of, learners, load_recipe, methods
from sparse_rl.inputs import InputError
from sparse_rl.nn import SMETAdam, sparse_layers
from sparse_rl.sb3.steps import gradient_steps
from sparse_rl.training.plan import Plan
from sparse_rl.training.vec_envs import make_vec_env

METHODS = ["anf", "ds", "gmp", "ne", "rigl", "screened", "set", "static"]
ON_POLICY = ["a2c", "ppo", "trpo"]
DISCRETE = ["dqn", "qrdqn"]


def build(plan: Plan) -> Any:
    env = make_vec_env(plan.env, plan.hyperparameters["n_envs"], seed=0)
    return make_model(learner_of(plan.algo), plan.hyperparameters, env, seed=0, device="cpu")


def test_every_learner_has_a_recipe_and_every_recipe_a_learner() -> None:
    assert learners() == sorted(LEARNERS)
    assert methods() == METHODS
    assert {learner_of(algorithm) for algorithm in algorithms()} == set(LEARNERS)


def test_every_method_has_a_class_and_a_recipe() -> None:
    recipes = [load_recipe(name, "") for name in algorithms()]
    named = {recipe["method"]["name"] for recipe in recipes if "method" in recipe}
    assert named == set(checks.METHODS)
    for name, (kind, settings) in checks.METHODS.items():
        parameters = inspect.signature(getattr(topology, kind)).parameters
        assert set(settings) == set(parameters), name


def test_agents_of_every_learner_can_be_described_and_those_of_zip_files_are_among_them() -> None:
    known = classes.known_classes()
    assert {known[name] for name, _ in LEARNERS.values()} == {learner_class(name) for name in learners()}
    assert set(foreign._MARKS) <= set(known)


def test_a_recipe_without_a_file_is_the_methods_on_top_of_the_learners() -> None:
    composed = load_recipe("rigl-tqc", "HalfCheetah")
    assert composed.items() >= load_recipe("tqc", "HalfCheetah").items()
    method = {key: value for key, value in load_recipe("rigl-sac", "Foo").items() if key != "n_timesteps"}
    assert method["method"]["name"] == "rigl"
    assert composed.items() >= method.items()
    assert set(composed) == {*load_recipe("tqc", "HalfCheetah"), *method}


@pytest.mark.parametrize("learner", sorted(LEARNERS))
@pytest.mark.parametrize("method", [None, *METHODS])
def test_every_method_builds_an_agent_with_every_learner(learner: str, method: str | None) -> None:
    algorithm = learner if method is None else f"{method}-{learner}"
    env = "CartPole-v1-noise90" if learner in DISCRETE else "InvertedPendulum-noise90"
    words = ["--algo", algorithm, "--env", env, "-n", "300000", "--n-envs", "1"]
    words += ["-params", "policy_kwargs.net_arch:[64,64]"]
    if method == "screened" and learner in ON_POLICY:
        with pytest.raises(InputError, match=f"Screening looks at the random warm-up in a replay.*{learner} has neit"):
            settle(*words)
        return
    buffer = [] if learner in ON_POLICY else ["--buffer-size", "100"]
    plan = settle(*words, *buffer)
    assert plan.hyperparameters["replay"] == ("observed" if learner in ON_POLICY else "redrawn")
    model = build(plan)
    assert isinstance(model, learner_class(learner))
    layers = sparse_layers(model.policy).values()
    assert bool(layers) == (method is not None)
    if method is not None:
        made = make_method(in_gradient_steps(plan.hyperparameters))
        for layer in layers:
            made.check(layer.budget)
    model.env.close()


@pytest.mark.parametrize(
    ("learner", "settings", "expected"),
    [
        ("ppo", {"n_steps": 32, "batch_size": 16, "n_epochs": 3}, 4 * 3 * 2),
        ("a2c", {"n_steps": 32}, 4),
        ("trpo", {"n_steps": 16, "batch_size": 16, "n_critic_updates": 2, "n_envs": 2}, 4 * 2 * 2),
        ("dqn", {"learning_starts": 20, "train_freq": 2, "gradient_steps": 3, "buffer_size": 100}, 40 * 3),
        # The last rollout is completed, and that in which the warm-up ends is learnt from.
        ("dqn", {"learning_starts": 25, "train_freq": 3, "gradient_steps": 1, "n_envs": 2, "buffer_size": 100}, 17 - 4),
        ("dqn", {"learning_starts": 25, "train_freq": 3, "gradient_steps": -1, "buffer_size": 100}, (34 - 8) * 3),
    ],
)
def test_the_gradient_steps_of_a_run_are_known_before(learner: str, settings: dict[str, Any], expected: int) -> None:
    words = [f"{key}:{value}" for key, value in {"n_envs": 1, **settings}.items()]
    plan = settle(
        "--algo", learner, "--env", "CartPole-v1", "-n", "100", "-params", "policy_kwargs.net_arch:[8]", *words
    )
    assert gradient_steps_of(plan.hyperparameters) == expected
    model = build(plan)
    model.learn(100)
    assert gradient_steps(model) == expected
    model.env.close()


# Noise


def test_on_policy_learners_learn_from_noise_as_it_was_seen_and_say_so() -> None:
    plan = settle("--algo", "set-ppo", "--env", "Hopper-noise90")
    assert plan.protocol == "observed noise"
    assert plan.notes == ("ppo has no replay buffer: it learns from noise as it was observed; nothing is redrawn.",)
    assert settle("--algo", "ppo", "--env", "Hopper-noise90", "--replay", "observed").notes == ()
    assert settle("--algo", "ppo", "--env", "Hopper-v5").notes == ()
    with pytest.raises(InputError, match="cannot redraw its noise for ppo, which learns from what it has just seen"):
        settle("--algo", "ppo", "--env", "Hopper-noise90", "--replay", "redrawn")


# Optimizers


def test_a_learners_own_optimizer_stays_as_stable_baselines3_sets_it() -> None:
    a2c, ppo = (build(settle("--algo", f"anf-{name}", "--env", "CartPole-v1")) for name in ("a2c", "ppo"))
    assert type(a2c.policy.optimizer).__name__ == "RMSprop"
    assert a2c.policy.optimizer.defaults["eps"] == ppo.policy.optimizer.defaults["eps"] == 1e-5
    crossq = build(settle("--algo", "anf-crossq", "--env", "Pendulum-v1", "--buffer-size", "100"))
    assert crossq.actor.optimizer.defaults["betas"] == (0.5, 0.999)


@pytest.mark.parametrize("learner", ["ppo", "a2c", "dqn"])
def test_any_learner_takes_the_optimizer_of_the_recipe(learner: str) -> None:
    words = ["--algo", f"anf-{learner}", "--env", "CartPole-v1", "-params"]
    model = build(settle(*words, "optimizer:smet-adam"))
    assert type(model.policy.optimizer) is SMETAdam
    model = build(settle(*words, "optimizer:adam", "policy_kwargs.optimizer_kwargs.eps:0.5"))
    assert (type(model.policy.optimizer).__name__, model.policy.optimizer.defaults["eps"]) == ("Adam", 0.5)


def test_optimizer_arguments_that_a_learner_would_overlook_are_refused() -> None:
    plan = settle("--algo", "a2c", "--env", "CartPole-v1", "-params", "policy_kwargs.optimizer_kwargs.eps:0.5")
    with pytest.raises(InputError, match=r"a2c sets the arguments of its own optimizer, so 'eps' .* have no effect"):
        build(plan)


# What is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--algo rgil-ppo", "Unknown algorithm 'rgil-ppo'. Unknown method 'rgil'. Did you mean 'rigl'?"),
        ("--algo rlx2-ppo", "Unknown algorithm 'rlx2-ppo': rlx2 works only as rlx2-sac or rlx2-td3."),
        ("--algo set-pppo", "Did you mean 'set-ppo'"),
        ("--algo zzz", "Known: the learners a2c, crossq, .*, and each of them after one of anf-, ds-, gmp-"),
        ("--algo anf-ppo --variant paper", "anf-ppo has no variants, so there is no 'paper': leave it out."),
        (
            "--algo ppo --buffer-size 10",
            "'buffer_size' is a key of other learners; those of this one are learning_rate",
        ),
        ("--algo sac -params n_epochs:2", "'n_epochs' is a key of other learners"),
        ("--algo ppo -params ent_coef:auto", "ent_coef must be a number of at least 0, not 'auto'"),
        ("--algo ppo -params clip_range:0", "clip_range must be a number above 0"),
        ("--algo dqn -params exploration_fraction:2", r"exploration_fraction must be a number in \[0, 1\]"),
        ("--algo ppo --sparsity 0.5", "ppo is dense, so 'sparsity' has no effect; anf-ppo is sparse."),
        ("--algo rigl-ppo -n 4000", "`stop` is gradient step"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_method(in_gradient_steps(settle(*words.split()).hyperparameters))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--algo anf-trpo --kernel numba", "trpo differentiates twice, which the kernel 'numba' does not support"),
        ("--algo dqn -params noise_type:normal", "dqn explores without noise on its actions: leave out 'noise_type'"),
        ("--algo anf-ppo -params policy_kwargs.net_arch:[]", "The actor has no hidden layer"),
        ("--algo ppo -params policy_kwargs.n_critics:2", "Unknown key of policy_kwargs 'n_critics'"),
    ],
)
def test_what_cannot_be_built_gets_a_sentence(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(settle("--env", "CartPole-v1", *words.split()))


@pytest.mark.parametrize(
    ("learner", "space", "message"),
    [
        ("sac", spaces.Discrete(2), "kind Discrete; sac needs Box .* these actions: a2c, dqn, ppo, qrdqn, trpo."),
        (
            "dqn",
            spaces.Box(-1, 1, (2,)),
            "kind Box; dqn needs Discrete .*: a2c, crossq, ddpg, ppo, sac, td3, tqc, trpo.",
        ),
        ("tqc", spaces.MultiBinary(2), "kind MultiBinary; tqc needs Box actions. .*: a2c, ppo, trpo."),
        ("ppo", spaces.Text(2), "kind Text; ppo needs Box actions. No learner here supports them."),
        ("ddpg", spaces.Box(-float("inf"), 1, (2,)), "has unbounded actions; ddpg needs bounds"),
    ],
)
def test_actions_that_a_learner_cannot_choose(learner: str, space: spaces.Space[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_actions(learner, space, "Here-v0")


def test_actions_that_a_learner_can_choose() -> None:
    check_actions("ppo", spaces.Box(-float("inf"), 1, (2,)), "Here-v0")  # it clips what it draws
    for space in (spaces.Discrete(2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)):
        check_actions("a2c", space, "Here-v0")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    hide = "sb3_contrib"
    monkeypatch.setattr("sparse_rl.agents.classes.find_spec", lambda name: None if name == hide else found(name))
    assert learner_class("ppo") is PPO
    assert learner_class("sac") is SAC
    with pytest.raises(InputError, match=r"'tqc' is in sb3-contrib, which is not installed: pip install .*\[contrib\]"):
        learner_defaults("tqc")
    monkeypatch.undo()
    assert learner_class("tqc") is TQC


def test_no_learner_takes_a_word_for_a_number() -> None:
    assert check_recipe({"ent_coef": "auto"}, learner_defaults("tqc")) == {"ent_coef": "auto"}
    with pytest.raises(InputError, match="not 'auto'"):
        check_recipe({"ent_coef": "auto"}, learner_defaults("a2c"))
