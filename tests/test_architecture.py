"""The house rules: which module may import which, what stays light, and versions that agree everywhere."""

from __future__ import annotations

import ast
import json
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
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HEAVY = {"numpy", "numba", "cv2", "scipy", "skimage", "matplotlib", "papermill", "torch", "pandas", "dask"}
LONGEST = 400


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


IMPORTS = {name: imports(ast.parse(path.read_text())) for name, path in MODULES.items()}


def reached(start: str, graph: dict[str, set[str]] = IMPORTS) -> set[str]:
    """The package's modules that a module imports, and what those import, and so on."""
    seen, waiting = set[str](), [start]
    while waiting:
        for name in graph[waiting.pop()] & MODULES.keys():
            if name not in seen and name != "instahide_nb":
                seen.add(name)
                waiting.append(name)
    return seen


def modules_below(*names: str) -> list[str]:
    return [
        module
        for module in MODULES
        if any(module == f"instahide_nb.{n}" or module.startswith(f"instahide_nb.{n}.") for n in names)
    ]


def test_imports_are_seen_where_they_are() -> None:
    code = "import a.b\ndef f():\n    from instahide_nb import challenge as c\n    from d.e import g"
    assert imports(ast.parse(code)) == {"a.b", "instahide_nb", "instahide_nb.challenge.build", "d.e", "d.e.g"}
    assert "instahide_nb.challenge.build" in reached("instahide_nb.run.cli")
    assert "instahide_nb.scheme.streams" in reached("instahide_nb.challenge.build")


@pytest.mark.parametrize("module", modules_below("attack", "release"))
def test_attacks_cannot_reach_the_secret_half(module: str) -> None:
    forbidden = {f"instahide_nb.{n}" for n in ("challenge", "evaluation", "pipeline", "cli")}
    assert reached(module) & forbidden == set()


@pytest.mark.parametrize("module", modules_below("attack"))
def test_attacks_name_no_secret_file(module: str) -> None:
    constants = [
        n.value for n in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(n, ast.Constant)
    ]
    texts = [text for text in constants if isinstance(text, str) and "\n" not in text]
    names = re.compile(
        r"secret\b|private\.npy|pair\.npy|coefficient\.npy|mask\.npy|public_index|private_label\.npy"
    )
    assert [text for text in texts if names.search(text) and len(text) < 40] == []


BY_NAME = re.compile(r"(importlib\.)?import_module|__import__|exec|eval|runpy\.\w+")


@pytest.mark.parametrize("module", MODULES)
def test_only_the_registry_imports_by_name(module: str) -> None:
    """Such imports are not among those that the other tests follow."""
    calls = [node for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.Call)]
    found = {name for name in (ast.unparse(call.func) for call in calls) if BY_NAME.fullmatch(name)}
    assert found == ({"importlib.import_module"} if module == "instahide_nb.attacks.registry" else set())


COMMANDS = ("cli", "pipeline", "recording", *(m.split(".")[1] for m in MODULES if ".sweep" in m))


@pytest.mark.parametrize("module", [m for m in MODULES if m not in modules_below(*COMMANDS)])
def test_what_computes_does_not_reach_what_runs_it(module: str) -> None:
    assert reached(module) & {"instahide_nb.run.pipeline", "instahide_nb.run.cli"} == set()


def test_only_the_entry_point_imports_the_command_line() -> None:
    assert [m for m in MODULES if "instahide_nb.run.cli" in IMPORTS[m]] == []


@pytest.mark.parametrize(
    "module",
    [
        "encryption",
        "streams",
        "storage",
        "constraints",
        "errors",
        "progress",
        "metrics",
        "sources",
        "patches",
    ],
)
def test_foundations_do_not_import_what_stands_on_them(module: str) -> None:
    above = {f"instahide_nb.{n}" for n in ("challenge", "release", "manifest", "leaderboard", "figures")}
    found = reached(f"instahide_nb.{module}")
    assert found & above == set()
    assert not any(name.startswith("instahide_nb.attack") for name in found)


def test_no_module_imports_itself_in_a_circle() -> None:
    """When it is loaded; what a function imports later is no circle."""
    at_start = {
        name: imports(ast.Module([n for n in ast.parse(path.read_text()).body if not hasattr(n, "body")], []))
        for name, path in MODULES.items()
    }
    assert [m for m in MODULES if m in reached(m, at_start)] == []


@pytest.mark.parametrize("module", ["instahide_nb", "instahide_nb.core.params", "instahide_nb.run.cli"])
def test_the_command_line_starts_light(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(n for n in sys.modules if '.' not in n))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "instahide_nb" in loaded
    assert loaded & HEAVY == set()


def test_nothing_but_the_package_is_imported_by_the_package_itself() -> None:
    assert IMPORTS["instahide_nb"] == set()


@pytest.mark.parametrize("module", MODULES)
def test_modules_can_be_read_in_one_go(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_define_nothing(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    for cell in cells:
        nodes = ast.walk(ast.parse("".join(cell["source"])))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.While)
        assert [node.lineno for node in nodes if isinstance(node, kinds)] == []


def test_there_are_three_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["attack", "evaluate", "gen_data"]


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


def conda_and_pip() -> tuple[list[str], list[str]]:
    conda = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict)]
    return conda, pip


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


def test_the_conda_environment_has_the_locked_versions() -> None:
    _, pip = conda_and_pip()
    pins = locked("requirements.lock")
    assert pip == [f"{name}=={pins[name][0]}" for name in sorted(direct_dependencies())] + ["-e ."]


def test_conda_itself_gives_python_and_pip_only() -> None:
    conda, _ = conda_and_pip()
    assert ENVIRONMENT["name"] == "instahide-nb"
    assert ENVIRONMENT["channels"] == ["conda-forge", "nodefaults"]
    assert [re.split("[<>=]", entry)[0] for entry in conda] == ["python", "pip"]
    (number,) = re.findall(r"^python=(\d+\.\d+)$", "\n".join(conda), re.MULTILINE)
    assert version(number) >= version(PYPROJECT["requires-python"].removeprefix(">="))


def test_the_headless_build_is_of_the_same_version() -> None:
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
