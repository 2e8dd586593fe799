"""Attack: YAML, whose tags can name what shall be run, and whose aliases can multiply."""

from pathlib import Path

import pytest
from _experiment.grid import read_grid
from conftest import Payload, Warden

from sparse_rl.agents.recipe import load_recipe, parse_assignments
from sparse_rl.commands.main import main
from sparse_rl.inputs import InputError
from sparse_rl.storage import parse_yaml
from sparse_rl.training.evaluation import evaluate
from sparse_rl.training.existing import read_config


@pytest.fixture(params=["!!python/object/apply:os.mkdir [{}]", "!!python/object/new:os.mkdir [[{}]]"])
def text(request: pytest.FixtureRequest, payload: Payload) -> str:
    """Give YAML that leaves a trace when an unsafe loader reads it."""
    return str(request.param).format(f"'{payload.trace}'")


REFUSAL = "could not determine a constructor for the tag 'tag:yaml.org,2002:python/object"


def test_the_trap_is_armed(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    trace = tmp_path / "trace"
    yaml.unsafe_load(f"!!python/object/apply:os.mkdir ['{trace}']")
    assert trace.exists()


def test_the_configuration_of_a_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yml").write_text(f"hyperparameters: {text}\n")
    with pytest.raises(InputError, match=REFUSAL):
        read_config(tmp_path)


def test_recipes(tmp_path: Path, text: str) -> None:
    file = tmp_path / "recipe.yml"
    file.write_text(f"default:\n  gamma: {text}\n")
    with pytest.raises(InputError, match=REFUSAL):
        load_recipe("sac", "Hopper", file=file)


def test_words_of_the_command_line(text: str) -> None:
    with pytest.raises(InputError, match=REFUSAL):
        parse_assignments([f"gamma:{text}"])


def test_grids(tmp_path: Path, text: str) -> None:
    (tmp_path / "grid.yml").write_text(f"grid:\n  algo: {text}\n")
    with pytest.raises(InputError, match=REFUSAL):
        read_grid(tmp_path / "grid.yml")


def test_packages_of_environments(
    tmp_path: Path, agent: Path, payload: Payload, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package beside a run, found because the run's folder is the present one."""
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(payload.trace)!r})\n")
    (tmp_path / "config.yml").write_text("{algo: sac, env: 'evil:Pendulum-v1', hyperparameters: {}}")
    agent.rename(tmp_path / "evil-Pendulum-v1.agent")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "imports the package 'evil', which can run any code: add --trust" in capsys.readouterr().err
    assert not payload.trace.exists()
    assert main(["evaluate", str(tmp_path), "-n", "1", "--trust"]) == 0  # the trap was armed
    payload.trace.rmdir()


def test_packages_of_environments_on_cards(
    tmp_path: Path, agent: Path, payload: Payload, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wicked.py").write_text(f"import os\nos.mkdir({str(payload.trace)!r})\n")
    (agent / "card.yml").write_text("{algorithm: sac, environment: 'wicked:Pendulum-v1', noise: no noise}")
    monkeypatch.syspath_prepend(tmp_path)
    for command in (["evaluate"], ["record", "-o", str(tmp_path / "x.gif")]):
        assert main([command[0], str(agent), *command[1:]]) == 2
        assert "imports the package 'wicked', which can run any code: add --trust" in capsys.readouterr().err


def test_cards(agent: Path, text: str) -> None:
    (agent / "card.yml").write_text(f"environment: {text}\n")
    with pytest.raises(InputError, match=REFUSAL):
        evaluate(agent, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
        ), "more than 10,000 values"),
        ("[" * 100_000, "There is an error in"),
    ],
    ids=["aliases of aliases", "nested"],
)  # fmt: skip
def test_yaml_that_multiplies(tmp_path: Path, warden: Warden, text: str, message: str) -> None:
    (tmp_path / "config.yml").write_text(text)
    assert message in warden.refusal("config", tmp_path)


def test_merge_keys_that_multiply(tmp_path: Path) -> None:
    """Nothing of them is left in the value that is counted in the end."""
    lines = ["a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(10)) + "}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 9)]
    (tmp_path / "config.yml").write_text("\n".join(lines))
    with pytest.raises(InputError, match="merge keys bring more than 10,000 values"):
        read_config(tmp_path)


def test_merge_keys_that_contain_themselves(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("a: &a {<<: *a, b: 1}")
    with pytest.raises(InputError):
        read_config(tmp_path)


def test_numbers_of_base_60_are_words() -> None:
    """PyYAML takes quadratic time for them, and nobody means them."""
    assert parse_yaml("[1:59:59, 190:20:30.15]", "it") == ["1:59:59", "190:20:30.15"]


@pytest.mark.parametrize("text", ["{a: 1, b: 2, a: 3}", "a: 1\nb: 2\n'a': 3", "x: &x {a: 1}\ny: {<<: *x, b: 1, b: 2}"])
def test_a_key_that_is_there_twice(text: str) -> None:
    with pytest.raises(InputError, match=r"the key '[ab]' is there twice"):
        parse_yaml(text, "it")


def test_merge_keys_work() -> None:
    text = "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: {<<: [*x, {c: 4}]}"
    assert parse_yaml(text, "it") == {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}, "z": {"a": 1, "b": 2, "c": 4}}
