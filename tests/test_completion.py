"""Shell completion: scripts that shells understand, and what a real bash completes with one."""

import subprocess
from pathlib import Path

import pytest

from sparse_rl.commands.completion import SHELLS, script
from sparse_rl.commands.main import COMMANDS, main


def complete(*words: str) -> list[str]:
    """Let bash complete the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    code = f"""
{script("bash")}
function=$(complete -p sparse-rl | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE="${{COMP_WORDS[*]}}"; COMP_POINT=${{#COMP_LINE}}
$function sparse-rl "{words[-1]}" "{words[-2]}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_bash_completes_commands_flags_and_algorithms() -> None:
    assert complete("sparse-rl", "ev") == ["evaluate"]
    assert set(complete("sparse-rl", "")) >= set(COMMANDS)
    assert complete("sparse-rl", "plot", "--conn") == ["--connectivity"]
    assert complete("sparse-rl", "train", "--algo", "anf-s") == ["anf-sac"]
    assert complete("sparse-rl", "plot", "-x", "f") == ["flops"]


def test_bash_completes_the_folder_of_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_agent").mkdir()
    monkeypatch.chdir(tmp_path)
    for command in ("evaluate", "features", "enjoy", "record"):
        assert complete("sparse-rl", command, "my_a") == ["my_agent"]


def test_bash_finds_no_fault_with_it() -> None:
    done = subprocess.run(["bash", "-n"], input=script("bash"), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for word in ("sparse-rl", "evaluate", "connectivity", "rigl-tqc"):
        assert word in text


def test_another_shell(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "fish"])
    assert "invalid choice: 'fish'" in capsys.readouterr().err
