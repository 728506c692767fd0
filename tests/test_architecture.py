"""Which layer may import which, how large the package may be, what stays light, and versions that agree everywhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "instahide_nb"
MODULES = {
    ".".join(path.relative_to(SOURCES.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCES.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
LAYERS = ("core", "scheme", "data", "challenge", "attacks", "evaluate", "show", "run")
"""Each imports only from those before it, and from itself."""

HEAVY = {"numpy", "numba", "cv2", "scipy", "skimage", "matplotlib", "torch", "pandas", "dask", "pydantic"}
HEAVY |= {"papermill"}


def imports(tree: ast.AST) -> set[str]:
    """All that a module imports anywhere in it, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name is from"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


IMPORTS = {name: imports(tree) & MODULES.keys() for name, tree in TREES.items()}


def reached(start: str, graph: dict[str, set[str]] = IMPORTS) -> set[str]:
    """The package's modules that a module imports, and what those import, and so on."""
    seen, waiting = set[str](), [start]
    while waiting:
        for name in graph[waiting.pop()] - {"instahide_nb"}:
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    return seen


def layer(module: str) -> str:
    return module.split(".")[1]


def test_each_layer_imports_only_from_those_before_it() -> None:
    assert {layer(module) for module in MODULES if module != "instahide_nb"} == set(LAYERS)
    upward = {
        f"{module} -> {name}"
        for module in MODULES
        for name in IMPORTS[module] - {"instahide_nb"}
        if LAYERS.index(layer(name)) > LAYERS.index(layer(module))
    }
    assert upward == set()
    assert IMPORTS["instahide_nb"] == set()


def test_the_house_is_small() -> None:
    assert sum(path.name != "__init__.py" for path in MODULES.values()) <= 60
    for folder, most in (("src", 12_000), ("tests", 9_000)):
        assert sum(len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")) <= most


@pytest.mark.parametrize("module", [m for m in MODULES if layer(m + ".") == "attacks"])
def test_attacks_do_not_reach_the_secret_half(module: str) -> None:
    assert reached(module) & {"instahide_nb.challenge.secret", "instahide_nb.challenge.build"} == set()
    constants = [n.value for n in ast.walk(TREES[module]) if isinstance(n, ast.Constant)]
    texts = [text for text in constants if isinstance(text, str) and "\n" not in text and len(text) < 40]
    secret = re.compile(r"secret\b|private(_label)?\.npy|pair\.npy|coefficient\.npy|mask\.npy|view\.npy|public_index")
    assert [text for text in texts if secret.search(text)] == []


def test_only_the_registry_imports_by_name() -> None:
    """Such imports are not among those that the other tests follow."""
    by_name = re.compile(r"(importlib\.)?import_module|__import__|exec|eval|runpy\.\w+")
    found = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and by_name.fullmatch(ast.unparse(node.func))
    }
    assert found == {"instahide_nb.attacks.registry"}


def test_the_command_line_starts_light() -> None:
    code = "import sys, instahide_nb.run.cli; print(*sorted(n for n in sys.modules if '.' not in n))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY == set()
    assert "typer" in done.stdout.split()


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())


def direct_dependencies() -> dict[str, tuple[int, ...]]:
    """The packages that pyproject.toml names, extras included, with the least version of each."""
    lines = list(PYPROJECT["dependencies"])
    for names in PYPROJECT["optional-dependencies"].values():
        lines += names
    found = {}
    for line in lines:
        match = re.fullmatch(r"([a-z0-9-]+)>=([0-9.]+)", line)
        assert match, line
        found[match[1]] = version(match[2])
    return found


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def locked(name: str) -> dict[str, list[str]]:
    """The versions in a lock file, by package; several where they depend on the version of Python."""
    found: dict[str, list[str]] = {}
    for package, number in re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE):
        found.setdefault(package, []).append(number)
    return found


def test_the_lock_has_one_version_of_each_direct_dependency_and_it_is_new_enough() -> None:
    pins = locked("requirements.lock")
    for name, least in direct_dependencies().items():
        assert len(pins.get(name, [])) == 1, name
        assert version(pins[name][0]) >= least, name


def test_the_oldest_lock_has_the_lower_bounds() -> None:
    pins = locked("requirements-oldest.lock")
    for line in PYPROJECT["dependencies"]:
        name, _, least = line.partition(">=")
        (number,) = set(pins[name])
        found, wanted = version(number), version(least)
        assert found[: len(wanted)] == wanted, name
        assert not any(found[len(wanted) :]), f"{name}: {number} is newer than {least}"


def test_the_conda_environment_has_python_and_pip_and_the_locked_versions() -> None:
    *conda, pip = ENVIRONMENT["dependencies"]
    pins = locked("requirements.lock")
    assert pip == {"pip": [f"{name}=={pins[name][0]}" for name in sorted(direct_dependencies())] + ["-e ."]}
    assert (ENVIRONMENT["name"], ENVIRONMENT["channels"]) == ("instahide-nb", ["conda-forge", "nodefaults"])
    assert [re.split("[<>=]", entry)[0] for entry in conda] == ["python", "pip"]
    (number,) = re.findall(r"^python=(\d+\.\d+)$", "\n".join(conda), re.MULTILINE)
    assert version(number) >= version(PYPROJECT["requires-python"].removeprefix(">="))

    (number,) = locked("requirements.lock")["opencv-contrib-python"]
    assert locked("requirements-headless.lock") == {"opencv-contrib-python-headless": [number]}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-oldest.lock"])
def test_everything_in_a_lock_has_a_hash(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == sum(map(len, locked(name).values()))
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_versions_of_the_package_agree() -> None:
    init = (SOURCES / "__init__.py").read_text()
    assert f'__version__ = "{PYPROJECT["version"]}"' in init
