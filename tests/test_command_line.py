"""What all commands of ``sparse-rl`` have in common: names, help, closed pipes, interruptions."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparse_rl.commands import evaluate
from sparse_rl.commands.main import COMMANDS, main

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_that_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert f"sparse-rl {name}" in (text := capsys.readouterr().out)
    assert "examples:" in text or "sparse-rl completion bash" in text


@pytest.mark.parametrize(("word", "answer"), [("trian", "Did you mean 'train'?"), ("x", "Known: completion, ")])
def test_typos(word: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("train --totl-timesteps 10", "Unknown option '--totl-timesteps'. Did you mean '--total-timesteps'"),
        ("train --sparsty=0.9", "Unknown option '--sparsty'. Did you mean '--sparsity'"),
        ("plot --out x runs --reech 3", "Unknown option '--reech'."),
    ],
)
def test_typos_in_flags(words: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 2
    assert answer in capsys.readouterr().err


def test_an_interruption_is_a_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "run", interrupted)
    assert main(["evaluate", "x"]) == 130
    assert capsys.readouterr().err == "error: interrupted.\n"


@pytest.mark.parametrize(
    ("shell", "code"), [("{} zoo >&-", 0), ("{} zoo | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}", 141)]
)
def test_output_that_nobody_reads(shell: str, code: int) -> None:
    command = shell.format(f"'{sys.executable}' -m sparse_rl")
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) in ((code, ""), (0, ""))  # a short table may have been written already


def test_where_an_error_comes_from(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["trian"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("SPARSE_RL_DEBUG", "1")
    assert main(["trian"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate x -n 0", "-n/--episodes: '0' is not a positive whole number"),
        ("evaluate x --seed -1", "--seed: '-1' is not a whole number of at least 0"),
        ("push x me/it -n -1", "-n/--episodes: '-1' is not a whole number of at least 0"),
        ("push x me/it --seed -1", "--seed: '-1' is not a whole number of at least 0"),
        ("plot -w 0", "-w/--window: '0' is not a positive whole number"),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
