"""The house: imports point one way, and the documents point somewhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {  # what each may import of the others; docs/architecture.md says why
    "storage": set(),
    "checkpoints": {"storage"},
    "topology": set(),
    "kernels": set(),
    "envs": set(),
    "nn": {"kernels", "topology"},
    "metrics": {"nn", "topology"},
    "sb3": {"kernels", "nn", "topology"},
    "agents": {"envs", "kernels", "nn", "sb3", "storage", "topology"},
    "features": {"envs", "metrics", "nn", "sb3", "storage", "topology"},
    "plots": {"agents", "envs", "storage", "training"},
    "sharing": {"agents", "envs", "storage", "training"},
    "tuning": {"agents", "storage", "training"},
    "commands": {"agents", "envs", "features", "plots", "sharing", "storage", "training", "tuning"},
    "training": {"agents", "checkpoints", "envs", "metrics", "nn", "sb3", "storage", "topology"},
}
STABLE_BASELINES3 = {"sb3", "agents", "checkpoints", "features", "training"}


def imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_room_is_known() -> None:
    assert {path.parent.name for path in (ROOT / "sparse_rl").glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_one_way(room: str) -> None:
    for file in (ROOT / "sparse_rl" / room).rglob("*.py"):
        for name in imports(file):
            package, _, rest = name.partition(".")
            if package == "sparse_rl" and rest.split(".")[0] in ROOMS:
                assert rest.split(".")[0] in ROOMS[room] | {room}, f"{file.name} imports {name}"
            if package == "stable_baselines3":
                assert room in STABLE_BASELINES3, f"{file.name} imports {name}"
            if room == "envs":
                assert package not in {"torch", "tensorboard"}, f"{file.name} imports {name}"


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing
