"""Typed parameters of the three notebooks: names, types, defaults, ranges and what each is for.

The same flat names are used in the YAML files of ``params/``, by ``-p name=value`` and in the notebooks'
``parameters`` cells, whose defaults are the tiny preset's. Unknown names and wrong types are errors, because
papermill only warns of the first and turns YAML's ``1e-3`` into text.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, cast

from instahide_nb.core.errors import InputError

__all__ = [
    "METHODS",
    "NOTEBOOKS",
    "AttackParams",
    "EvaluateParams",
    "GenDataParams",
    "read_yaml",
]

METHODS = ("unmask", "prng-state", "prng-seed", "carlini-v2", "carlini-v1")
"""The attacks of this package; others are named ``module:function`` or come from an entry point."""


def _parameter(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def _typed(name: str, value: Any, kind: str) -> Any:
    """The value when it is of the annotated kind; an int serves as a float, a bool never as a number."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputError(f"{name}: is a number of more than 64 bits; none that large is accepted")
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    wanted = {"int": (int,), "float": (float,), "str": (str,), "int | str": (int, str)}[kind]
    if not isinstance(value, wanted) or isinstance(value, bool):
        hint = ""
        if kind in ("int", "float") and isinstance(value, str):
            hint = (
                "; YAML reads 1e-3 as text, write 0.001" if "e" in value.lower() else "; take the quotes away"
            )
        names = {"int": "a whole number", "float": "a number", "str": "text", "int | str": "a number or text"}
        raise InputError(f"{name}: {value!r} is {type(value).__name__}, not {names[kind]}{hint}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name}: {value} is not a finite number")
    return value


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name}: {value} is too small; give {least} or more")


class _Parameters:
    """What the three sets of parameters share."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The parameters' names, in the order of the notebook's cell."""
        return tuple(f.name for f in fields(cast(Any, cls)))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Make parameters of names and values, the rest being defaults.

        Raises
        ------
        InputError
            At the first unknown name, wrong type or value out of range.
        """
        for name in mapping:
            if name not in cls.names():
                near = difflib.get_close_matches(str(name), cls.names(), 1)
                hint = f"did you mean {near[0]}?" if near else "the parameters are " + ", ".join(cls.names())
                raise InputError(f"{name}: no such parameter; {hint}")
        return cls(**mapping)

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Make parameters of a notebook's variables.

        The names assigned by the ``parameters`` cell, and by the cell that papermill puts behind it, are read from
        the cells run so far, so that a misspelt name is an error and not a variable that nobody reads.
        """
        mapping = {name: namespace[name] for name in cls.names() if name in namespace}
        for source in namespace.get("In", []):
            mapping |= {name: namespace[name] for name in _literal_names(source) if name in namespace}
        return cls.from_mapping(mapping)

    def as_dict(self) -> dict[str, Any]:
        """All parameters, by name."""
        return asdict(cast(Any, self))

    def __post_init__(self) -> None:
        for f in fields(cast(Any, self)):
            object.__setattr__(self, f.name, _typed(f.name, getattr(self, f.name), cast(str, f.type)))
        self.check()

    def check(self) -> None:
        """Refuse values out of range."""


def _literal_names(source: str) -> list[str]:
    """Names assigned in a cell that does nothing but assign literals, as a cell of parameters does."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a cell with IPython's own syntax
        return []
    names = []
    for statement in body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
            return []
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            if not ast.unparse(statement.value).startswith("float("):  # papermill's way to write nan and inf
                return []
        names.append(statement.targets[0].id)
    return names


@dataclass(frozen=True)
class GenDataParams(_Parameters):
    """Parameters of ``gen_data``."""

    out_dir: str = _parameter("runs/tiny", "folder of the run; release/ and secret/ are made in it")
    seed: int | str = _parameter(2020, 'seed of the challenge, 0 .. 4294967295, or "entropy"; secret')
    rng: str = _parameter("mt19937", "random generator: mt19937 (as in 2020) or chacha20 (mended)")
    key: str = _parameter("", 'chacha20 only: 64 hex digits; "" draws them; secret')
    scheme: str = _parameter("cross", "cross (2 private + k-2 public images), inside (k private) or mixup")
    n_private: int = _parameter(20, "how many private images")
    encryptions_per_image: int = _parameter(
        50, "epochs; the release holds n_private times as many encryptions"
    )
    k: int = _parameter(4, "how many images are mixed into one encryption, 2 .. 16")
    max_coefficient: float = _parameter(0.65, "largest coefficient of a mixture, in (1/k, 1]")
    min_private_sum: float = _parameter(0.30, "cross: least sum of the two private coefficients")
    private_source: str = _parameter(
        "embedded", "embedded, cifar10[:ROOT], imagenette[:ROOT], a folder or .npz"
    )
    public_source: str = _parameter("embedded", "likewise; random crops are taken of its photographs")
    n_public: int = _parameter(200, "how many public images (crops); cross needs n_private or more")
    min_keypoints: int = _parameter(40, "a crop is kept when SIFT finds more key points than this")

    def check(self) -> None:
        """Refuse values out of range and combinations that cannot be made."""
        from instahide_nb.scheme.encryption import check_constraints

        seed = self.seed
        if (isinstance(seed, str) and seed != "entropy") or (isinstance(seed, int) and not 0 <= seed < 2**32):
            raise InputError(f'seed: {seed!r} is not accepted; give 0 .. 4294967295 or "entropy"')
        if self.rng not in ("mt19937", "chacha20"):
            raise InputError(f"rng: {self.rng!r} is not known; choose mt19937 or chacha20")
        if self.key and self.rng != "chacha20":
            raise InputError(f"key: {self.rng} takes a seed; give a key with rng chacha20 only")
        if self.key and (len(self.key) != 64 or not set(self.key.lower()) <= set("0123456789abcdef")):
            raise InputError('key: is not 64 hex digits; give 64 of 0-9a-f, or "" to draw them')
        _at_least("n_private", self.n_private, 2)
        _at_least("encryptions_per_image", self.encryptions_per_image, 1)
        _at_least("min_keypoints", self.min_keypoints, 0)
        check_constraints(self.scheme, self.k, self.max_coefficient, self.min_private_sum)
        _at_least("n_public", self.n_public, 0)
        if self.scheme == "cross" and self.n_public < self.n_private:
            raise InputError(
                f"n_public: {self.n_public} is fewer than the {self.n_private} private images; "
                f"give {self.n_private} or more"
            )


@dataclass(frozen=True)
class AttackParams(_Parameters):
    """Parameters of ``attack``."""

    release_dir: str = _parameter("runs/tiny/release", "folder with encryption.npy and label.npy")
    out_dir: str = _parameter("runs/tiny/attack/unmask", "folder for what the attack finds")
    method: str = _parameter("unmask", ", ".join(METHODS) + ", an entry point's name or module:function")
    public_source: str = _parameter("embedded:attacker", "the attacker's own public photographs")
    n_public: int = _parameter(200, "how many crops of them")
    seed_start: int = _parameter(0, "prng-seed: first seed of the scan")
    seed_stop: int = _parameter(2**32, "prng-seed: end of the scan (not scanned itself)")

    def check(self) -> None:
        """Refuse values out of range."""
        if self.method not in METHODS and ":" not in self.method:
            from instahide_nb.attacks.registry import method_names

            if self.method not in method_names():
                raise InputError(
                    f"method: {self.method!r} is not known; choose {', '.join(method_names())} or module:function"
                )
        _at_least("n_public", self.n_public, 1)
        if not 0 <= self.seed_start < self.seed_stop <= 2**32:
            raise InputError(
                f"seed_start, seed_stop: {self.seed_start} .. {self.seed_stop} is no range of 0 .. {2**32}"
            )


@dataclass(frozen=True)
class EvaluateParams(_Parameters):
    """Parameters of ``evaluate``."""

    release_dir: str = _parameter("runs/tiny/release", "folder with encryption.npy and label.npy")
    secret_dir: str = _parameter("runs/tiny/secret", "folder with the private images")
    decryption: str = _parameter(
        "runs/tiny/attack/unmask/decryption.npy", "what is scored: .npy or submission .zip"
    )
    out_dir: str = _parameter("runs/tiny/evaluate/unmask", "folder for metrics and figures")
    name: str = _parameter("unmask", "name of the attack on the leaderboard")

    def check(self) -> None:
        """Refuse an empty name."""
        if not self.name.strip():
            raise InputError("name: is empty; give the attack's name")


NOTEBOOKS: dict[str, type[GenDataParams] | type[AttackParams] | type[EvaluateParams]] = {
    "gen_data": GenDataParams,
    "attack": AttackParams,
    "evaluate": EvaluateParams,
}
"""The notebooks in the order in which they run, with the class of their parameters."""


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a flat YAML file of parameters.

    Raises
    ------
    InputError
        When the file is missing or holds anything but names and plain values.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception:  # beside YAMLError, PyYAML lets through what int(), date() and dict lookups raise
        raise InputError(f"{path}: is not YAML; write one 'name: value' a line") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or any(isinstance(value, dict | list) for value in content.values()):
        raise InputError(f"{path}: holds more than names and plain values; write one 'name: value' a line")
    return {str(name): value for name, value in content.items()}
