"""Spaces of hyperparameters: what is varied by default, and how a file says what else is."""

from pathlib import Path
from typing import Any

import pytest

from sparse_rl.commands.main import main as sparse_rl
from sparse_rl.commands.train_arguments import make_parser, read_plan
from sparse_rl.training.plan import Plan
from sparse_rl.tuning.space import Choices, Range, as_it_is, default_space, read_space, words_of

WORDS = "--algo static-a2c --env CartPole-v1 --kernel scatter -n 60 --n-envs 1 --eval-episodes 1"


def plan_of(words: str) -> Plan:
    return read_plan(make_parser().parse_args(words.split()))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("learning_rat: {low: 1e-4, high: 1e-2}", "Unknown recipe key 'learning_rat'. Did you mean 'learning_rate'?"),
        (
            "learning_rate: {low: 1e-4, hihg: 1e-2}",
            "Unknown key of the range of learning_rate 'hihg'. Did you mean 'high'",
        ),
        ("learning_rate: {low: 1e-4}", "The range of learning_rate needs 'high' too."),
        ("learning_rate: {low: 1, high: 0.1}", "'low' of learning_rate, 1, must be less than 'high', 0.1."),
        ("learning_rate: {low: 0, high: 0.1, log: true}", "must be above 0 for 'log: true', not 0"),
        ("learning_rate: {low: 0.1, high: 0.2, log: 1}", "'log' of learning_rate must be true or false, not 1."),
        ("learning_rate: {low: a, high: 0.2}", "'low' of learning_rate must be a number, not 'a'."),
        (
            "learning_rate: {low: 0.1, high: 0.2, step: 1}",
            "'step' of learning_rate must be above 0 and not more than 0.1",
        ),
        ("learning_rate: {low: 0.1, high: 0.2, step: 0.01, log: true}", "'log: true' or a 'step', not both"),
        ("learning_rate: 3", "learning_rate must be a range such as {low: 0.5, high: 0.9} or a list of values, not 3."),
        ("sparsity: {low: 0.5, high: 1.5}", "The space cannot have sparsity:1.5: sparsity must be a number in [0, 1)"),
        ("method.drop_fraction: [0.1]", "The method 'static' has no settings, so 'drop_fraction' cannot be set."),
        ("n_steps: {low: 4.5, high: 8}", "n_steps must be a whole number"),
        ("n_timesteps: [100]", "n_timesteps is the same for all trials, so that they can be compared: give -n."),
        ("policy_kwargs: {net_arhc: [[8]]}", "Unknown key of policy_kwargs 'net_arhc'. Did you mean 'net_arch'?"),
        ("[1]", "must hold keys such as learning_rate"),
        ("a: [", "There is an error in the space"),
        ("gamma: !!python/name:os.system ''", "There is an error in the space"),
    ],
)
def test_a_bad_space_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], space: str, message: str) -> None:
    (tmp_path / "space.yml").write_text(space)
    words = f"tune {WORDS} --space {tmp_path / 'space.yml'} -o {tmp_path / 'study'}"
    assert sparse_rl(words.split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("algorithm", "names"),
    [
        ("sac", {"learning_rate"}),
        ("static-td3", {"learning_rate", "sparsity"}),
        ("anf-sac", {"learning_rate", "sparsity", "method.drop_fraction", "method.update_interval"}),
        ("set-sac", {"learning_rate", "method.drop_fraction", "method.update_interval"}),  # its sparsity is in lambdas
        ("gmp-td3", {"learning_rate", "sparsity", "method.update_interval"}),
        ("ne-sac", {"learning_rate", "sparsity", "method.update_interval"}),
    ],
)
def test_default_spaces(algorithm: str, names: set[str]) -> None:
    words = f"--algo {algorithm} --env InvertedPendulum-noise90"
    plan = plan_of(words)
    space = default_space(plan)
    assert set(space) == names
    first = as_it_is(space, plan)
    assert first is not None  # so trial 0 can be the recipe as it is
    same = plan_of(f"{words} --seed {plan.seed} -params {' '.join(words_of(first))}")
    assert same.hyperparameters == plan.hyperparameters


@pytest.mark.parametrize(
    ("given", "varied"),
    [({"sparsity.actor", "sparsity.critic"}, False), ({"sparsity"}, False), ({"sparsity_of_other"}, True)],
)
def test_what_has_been_given_a_value_in_part_is_not_varied(given: set[str], varied: bool) -> None:
    plan = plan_of("--algo anf-sac --env InvertedPendulum-noise90")
    space = default_space(plan, given)
    assert ("sparsity" in space) is varied
    assert "method.drop_fraction" not in default_space(plan, {"method"})


def test_spaces_are_read(tmp_path: Path) -> None:
    file = tmp_path / "space.yml"
    file.write_text(
        "learning_starts: {low: 100, high: 1e3}\ngamma: [0.9, 0.99]\n"
        "method: {drop_fraction: {low: 0, high: 1, step: 0.1}}\n"
        "policy_kwargs.net_arch: [[64, 64], [8]]\nuse_sde: [true, false]\nent_coef: [auto, 0.1]"
    )
    space = read_space(file, plan_of("--algo anf-sac --env InvertedPendulum-noise90"))
    assert space == {
        "learning_starts": Range(100, 1000, whole=True),
        "gamma": Choices((0.9, 0.99)),
        "method.drop_fraction": Range(0, 1, step=0.1),
        "policy_kwargs.net_arch": Choices(("[64, 64]", "[8]")),
        "use_sde": Choices((True, False)),
        "ent_coef": Choices(("auto", 0.1)),
    }


@pytest.mark.parametrize(
    ("entry", "held", "others"),
    [
        (Range(0.0, 1.0, step=0.1), [0, 0.3, 0.7, 1.0], [0.25, 1.1, -0.1, True, "0.3", None, float("nan")]),
        (Range(1e-4, 1e-2, log=True), [1e-4, 3e-4, 1e-2], [0.0, 1.0]),
        (Range(10, 100, step=25, whole=True), [10, 35, 85, 85.0], [25, 100, 35.5]),
        (Range(1, 100, log=True, whole=True), [1, 50, 100], [0, 1.5]),
    ],
)
def test_a_range_holds_what_could_be_drawn(entry: Range, held: list[Any], others: list[Any]) -> None:
    assert [entry.holds(value) for value in held] == [True] * len(held)
    assert [entry.holds(value) for value in others] == [False] * len(others)


def test_a_recipe_in_a_range_with_steps_is_the_first_trial(tmp_path: Path) -> None:
    plan = plan_of("--algo anf-sac --env InvertedPendulum-noise90 -params sparsity:0.75")
    file = tmp_path / "space.yml"
    file.write_text("sparsity: {low: 0.5, high: 1, step: 0.05}")
    assert as_it_is(read_space(file, plan), plan) == {"sparsity": 0.75}
