"""The house: imports point one way, and the documents point somewhere."""

import ast
import re
import sys
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
MODULES = {  # what serves all rooms, and what each of these may import of the package
    "__init__": {"envs", "version"},
    "__main__": {"commands"},
    "caching": set(),
    "colors": set(),
    "inputs": {"names"},
    "names": set(),
    "version": set(),
}
THIRD_PARTY = {  # what each may import of other packages; topology, nn, kernels, storage and metrics know no agents
    "storage": {"numpy", "safetensors", "torch", "yaml"},
    "checkpoints": {"numpy", "stable_baselines3", "torch"},
    "topology": {"torch"},
    "kernels": {"llvmlite", "numba", "numpy", "torch"},
    "envs": {"gymnasium", "mujoco", "numba", "numpy"},
    "nn": {"numpy", "torch"},
    "metrics": {"numpy", "torch"},
    "sb3": {"gymnasium", "numpy", "stable_baselines3", "torch"},
    "agents": {"gymnasium", "numba", "numpy", "stable_baselines3", "torch"},
    "features": {"gymnasium", "matplotlib", "numpy", "stable_baselines3", "torch"},
    "plots": {"PIL", "matplotlib", "numpy", "tensorboard"},
    "sharing": {"huggingface_hub", "numpy", "yaml"},
    "tuning": {"matplotlib", "numpy", "optuna", "yaml"},
    "commands": {"numpy", "rich", "shtab", "torch"},
    "training": {
        "gymnasium", "imageio", "imageio_ffmpeg", "matplotlib", "numpy", "stable_baselines3", "torch", "tqdm", "yaml",
    },
    "caching": {"numba"},
}  # fmt: skip


def imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_room_is_known() -> None:
    package = ROOT / "sparse_rl"
    assert {path.parent.name for path in package.glob("*/__init__.py")} == set(ROOMS)
    assert {path.stem for path in package.glob("*.py")} == set(MODULES)


@pytest.mark.parametrize("place", [*ROOMS, *MODULES])
def test_arrows_point_one_way(place: str) -> None:
    folder = ROOT / "sparse_rl" / place
    allowed = MODULES[place] if place in MODULES else {place, *ROOMS[place], *MODULES} - {"__init__", "__main__"}
    for file in folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]:
        for name in imports(file):
            package, _, rest = name.partition(".")
            if package == "sparse_rl":
                inner = rest.split(".")[0]
                assert inner in allowed or inner not in {*ROOMS, *MODULES}, f"{file.name} imports {name}"
            elif package not in sys.stdlib_module_names:
                assert package in THIRD_PARTY.get(place, set()), f"{file.name} imports {name}"


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing
