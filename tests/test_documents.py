"""What the documents show works: their code is run, and they build into a site without a warning."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sparse_rl.agents import save_agent
from sparse_rl.agents.classes import _registered
from sparse_rl.commands.main import main as sparse_rl_main
from sparse_rl.commands.train import main

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: str) -> list[tuple[str, str]]:
    return _BLOCK.findall((ROOT / "docs" / document).read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)


def run_line(line: str, more: str = "") -> None:
    words = shlex.split(line, comments=True)
    if words[:2] == ["python", "train.py"]:
        assert main([*words[2:], *more.split()]) == 0
    else:
        assert words[0] == "sparse-rl"
        assert sparse_rl_main(words[1:]) == 0


def run_python(document: str, names: dict[str, Any]) -> None:
    for kind, code in blocks(document):
        if kind == "python":
            exec(compile(code, document, "exec"), names)


@pytest.mark.slow
def test_the_tutorial(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for kind, code in blocks("tutorial.md"):
        if kind == "python":
            exec(compile(code, "tutorial.md", "exec"), names)
        else:
            for line in code.splitlines():
                run_line(line)
    printed = capsys.readouterr().out
    assert "(40,) 4" in printed
    assert "3 updates" in printed or "4 updates" in printed
    assert "active=2048" in printed


@pytest.mark.slow
def test_extending(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    run_python("extending.md", names)
    assert type(names["model"]) is names["ClippedSAC"]
    assert names["model"].max_grad_norm == 0.5
    del _registered["examples.own_learner:ClippedSAC"]


@pytest.mark.slow
def test_what_extending_types_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Without their million steps."""
    lines = [line for kind, code in blocks("extending.md") if kind == "sh" for line in code.splitlines()]
    assert len(lines) == 3
    for line in lines:
        line = line.replace("HalfCheetah", "InvertedPendulum")
        if "-params" not in line:
            line += " -params"
        run_line(f"{line} learning_starts:20 policy_kwargs.net_arch:[16] -n 40 --eval-episodes 1")


@pytest.mark.slow
def test_your_own_environment(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from examples.own_environment import Reach

    small = "-n 60 --eval-episodes 1"
    for line in (
        line for kind, code in blocks("your-own-environment.md") if kind == "sh" for line in code.splitlines()
    ):
        run_line(line, "" if line.startswith("sparse-rl") else small)

    folder = tmp_path / "agent"
    save_agent(PPO("MlpPolicy", VecNormalize(DummyVecEnv([Reach])), n_steps=8, batch_size=8), folder)
    names: dict[str, Any] = {"folder": folder, "vec_env": DummyVecEnv([Reach])}
    with pytest.warns(UserWarning, match="Overriding environment Reach-v0"):
        run_python("your-own-environment.md", names)
    assert names["env"].training is False
    assert names["model"].get_vec_normalize_env().training is True


def test_the_page_shows_the_example() -> None:
    shown = "".join(code for kind, code in blocks("your-own-environment.md") if kind == "python")
    code = (ROOT / "examples" / "own_environment.py").read_text(encoding="utf-8")
    for line in re.findall(r"^        (?:self\.|return ).*$", code, re.MULTILINE):
        assert line in shown, line


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr + result.stdout
    pages = list((tmp_path / "site").rglob("*.html"))
    for name in ("index.html", "tutorial.html", "changelog.html", "api/sb3.html"):
        assert tmp_path / "site" / name in pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if page.parent.name == "api":
            assert not re.search(r":param|:class:|:func:|:return:", text), page
        for picture in re.findall(r'<img[^>]* src="([^":]+)"', text):
            assert (page.parent / picture).exists(), (page, picture)
