"""Parameters of the three notebooks: names, types, defaults, ranges and what each is for.

The same flat names are used in the YAML files of ``params/``, by ``-p name=value`` and in the notebooks'
``parameters`` cells; the defaults are the tiny preset. papermill only warns of an unknown name, and YAML reads ``1e-3``
as text, so :class:`Record` refuses unknown names and wrong types with one line.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from instahide_nb.core.errors import InputError


class Record(BaseModel):
    """A frozen, strictly typed record: an int serves as a float, nothing else is converted.

    Raises
    ------
    InputError
        At the first unknown name, wrong type or value out of range.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(_one_line(error, self.names())) from None

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the fields, in order."""
        return tuple(cls.model_fields)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> Self:
        """Make a record from names and values; what is left out takes its default."""
        return cls(**mapping)

    def changed(self, **values: object) -> Self:
        """The same record with other values."""
        return type(self)(**self.as_dict() | values)

    def as_dict(self) -> dict[str, Any]:
        """All values, by name."""
        return self.model_dump()


def _one_line(error: ValidationError, names: tuple[str, ...]) -> str:
    """The first fault as ``name: what is wrong; what to do``; an unknown name comes before the others."""
    fault = min(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    context, value = fault.get("ctx", {}), fault["input"]
    if isinstance(context.get("error"), InputError):
        return str(context["error"])
    name = ".".join(map(str, fault["loc"][:1]))
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, names, 1)
        return f"{name}: no such parameter; " + (
            f"did you mean {near[0]}?" if near else "the parameters are " + ", ".join(names)
        )
    hint = ""
    if isinstance(value, str):
        hint = "; write it as in 0.001" if "e" in value.lower() else "; take the quotes away"
    texts = {
        "missing": "is missing",
        "int_type": "{} is not a whole number" + hint,
        "float_type": "{} is not a number" + hint,
        "string_type": "{} is not text; put it in quotes",
        "finite_number": "{} is not a finite number",
        "literal_error": "{} is not known; choose " + str(context.get("expected", "")).replace("'", ""),
        "greater_than_equal": f"{{}} is too small; give {context.get('ge')} or more",
        "less_than_equal": f"{{}} is too large; give {context.get('le')} or less",
    }
    text = texts.get(fault["type"], "{} is not accepted (" + fault["msg"].replace("{", "(") + ")")
    return f"{name}: " + text.format(_shown(value))


def _shown(value: object) -> str:
    """The start of a value's repr; numbers of more than 4,300 digits have none."""
    try:
        text = repr(value)
    except ValueError:
        return "this number"
    return text if len(text) <= 60 else text[:57] + "..."


def private_per_row(scheme: str, k: int) -> int:
    """p: how many of the k images of an encryption are private."""
    return 2 if scheme == "cross" else k


def check_constraints(scheme: str, k: int, max_coefficient: float, min_private_sum: float) -> None:
    """Refuse constraints that no row of coefficients can meet.

    Raises
    ------
    InputError
        When k is outside 2 .. 16 (Mixup: is not 2), `max_coefficient` outside (1/k, 1], or `min_private_sum`
        outside [0, 1] or more than two coefficients of at most `max_coefficient` can reach.
    """
    if scheme not in ("cross", "inside", "mixup"):
        raise InputError(f"scheme: {scheme!r} is not known; choose cross, inside or mixup")
    if not 2 <= k <= 16:
        raise InputError(f"k: {k} images cannot be mixed; give 2 .. 16")
    if scheme == "mixup" and k != 2:
        raise InputError(f"k: Mixup mixes two images, not {k}; give k = 2 or another scheme")
    if not 1 / k < max_coefficient <= 1:
        raise InputError(
            f"max_coefficient: {max_coefficient} cannot be met by {k} coefficients; "
            f"give more than {1 / k:.4g}, at most 1"
        )
    if scheme == "cross":
        reach = 1.0 if k == 2 else min(1.0, 2 * max_coefficient)
        # With public images beside them, two coefficients never sum to their limit itself.
        if not 0 <= min_private_sum <= reach or (k > 2 and min_private_sum == reach):
            raise InputError(
                f"min_private_sum: {min_private_sum} cannot be met with max_coefficient {max_coefficient}; "
                f"give 0 .. {reach:.4g}"
            )


class _Parameters(Record):
    """The parameters of one notebook."""

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Make parameters from a notebook's variables.

        A misspelt name is an error where it is meant as a parameter: in the last executed cell that assigns most of the
        parameters, and in the cell that papermill injected. Other variables are left alone.
        """
        known = set(cls.names())
        cells = [(source, _assigned(source)) for source in namespace.get("In", [])]
        own = [names for _, names in cells if 2 * len(names & known) > len(known)][-1:]
        own += [names for source, names in cells if source.startswith("# Parameters")][-1:]
        meant = sorted(name for name in known.union(*own) if not name.startswith("PAPERMILL_"))
        return cls.from_mapping({name: namespace[name] for name in meant if name in namespace})


def _assigned(source: str) -> set[str]:
    """The names that a cell assigns at its top level."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a cell with IPython's own syntax
        return set()
    targets: list[ast.expr] = []
    for statement in body:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
    return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}


def _p(default: Any, text: str, least: int | None = None) -> Any:
    return Field(default, description=text, ge=least, le=None if least is None else 2**31 - 1)


class GenDataParams(_Parameters):
    """Parameters of ``gen_data``."""

    out_dir: str = _p("runs/tiny", "folder of the run; release/ and secret/ are made in it")
    seed: int | str = _p(2020, 'seed of the challenge, 0 .. 4294967295, or "entropy"; secret')
    rng: Literal["mt19937", "chacha20"] = _p(
        "mt19937", "random generator: mt19937 (as in 2020) or chacha20 (mended)"
    )
    key: str = _p("", 'chacha20 only: 64 hex digits; "" draws them; secret')
    scheme: Literal["cross", "inside", "mixup"] = _p(
        "cross", "cross (2 private + k-2 public images), inside (k private) or mixup"
    )
    n_private: int = _p(20, "how many private images", 2)
    encryptions_per_image: int = _p(50, "epochs; the release holds n_private times as many encryptions", 1)
    k: int = _p(4, "how many images are mixed into one encryption, 2 .. 16")
    max_coefficient: float = _p(0.65, "largest coefficient of a mixture, in (1/k, 1]")
    min_private_sum: float = _p(0.30, "cross: least sum of the two private coefficients")
    private_source: str = _p("embedded", "embedded, cifar10[:ROOT], imagenette[:ROOT], a folder or .npz")
    public_source: str = _p("embedded", "likewise; random crops are taken of its photographs")
    n_public: int = _p(200, "how many public images (crops); cross needs n_private or more", 0)
    min_keypoints: int = _p(40, "a crop is kept when SIFT finds more key points than this", 0)

    @field_validator("seed", mode="before")
    @classmethod
    def _check_seed(cls, seed: object) -> object:
        if seed != "entropy" and (type(seed) is not int or not 0 <= seed < 2**32):
            raise InputError(f'seed: {_shown(seed)} is not a seed; give 0 .. 4294967295 or "entropy"')
        return seed

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.key and self.rng != "chacha20":
            raise InputError(f"key: {self.rng} takes a seed; give a key with rng chacha20 only")
        if self.key and (len(self.key) != 64 or not set(self.key.lower()) <= set("0123456789abcdef")):
            raise InputError('key: is not 64 hex digits; give 64 of 0-9a-f, or "" to draw them')
        check_constraints(self.scheme, self.k, self.max_coefficient, self.min_private_sum)
        if self.scheme == "cross" and self.n_public < self.n_private:
            raise InputError(
                f"n_public: {self.n_public} is fewer than the {self.n_private} private images; "
                f"give {self.n_private} or more"
            )
        return self

    @property
    def private_per_row(self) -> int:
        """p: how many of the k images of an encryption are private."""
        return private_per_row(self.scheme, self.k)


class AttackParams(_Parameters):
    """Parameters of ``attack``."""

    release_dir: str = _p("runs/tiny/release", "folder with encryption.npy and label.npy")
    out_dir: str = _p("runs/tiny/attack/unmask", "folder for what the attack finds")
    method: str = _p(
        "unmask",
        "unmask, prng-state, prng-seed, carlini-v2, carlini-v1, an entry point's name or module:function",
    )
    public_source: str = _p("embedded:attacker", "the attacker's own public photographs")
    n_public: int = _p(200, "how many crops of them", 1)
    seed_start: int = _p(0, "prng-seed: first seed of the scan")
    seed_stop: int = _p(2**32, "prng-seed: end of the scan (not scanned itself)")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 <= self.seed_start < self.seed_stop <= 2**32:
            raise InputError(
                f"seed_start, seed_stop: {_shown(self.seed_start)} .. {_shown(self.seed_stop)} is not a range of "
                f"seeds; give 0 <= seed_start < seed_stop <= {2**32}"
            )
        return self


class EvaluateParams(_Parameters):
    """Parameters of ``evaluate``."""

    release_dir: str = _p("runs/tiny/release", "folder with encryption.npy and label.npy")
    secret_dir: str = _p("runs/tiny/secret", "folder with the private images")
    decryption: str = _p("runs/tiny/attack/unmask/decryption.npy", "what is scored: .npy or submission .zip")
    out_dir: str = _p("runs/tiny/evaluate/unmask", "folder for metrics and figures")
    name: str = _p("unmask", "name of the attack on the leaderboard")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.strip():
            raise InputError("name: is empty; give the attack's name")
        return name


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
        raise InputError(f"{path}: is not YAML; write one 'name: value' per line") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or any(isinstance(value, dict | list) for value in content.values()):
        raise InputError(f"{path}: holds more than names and plain values; write one 'name: value' per line")
    return {str(name): value for name, value in content.items()}


def read_assignments(pairs: Iterable[str]) -> dict[str, Any]:
    """Read ``name=value`` or ``notebook.name=value``; values of text parameters stay text, others are YAML.

    Examples
    --------
    >>> read_assignments(["k=4", "key=" + "1" * 64, "seed=entropy"])["key"][:4]
    '1111'
    """
    import yaml

    fields = [item for kind in NOTEBOOKS.values() for item in kind.model_fields.items()]
    text_names = {name for name, field in fields if isinstance(field.default, str)}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"-p {pair}: is not name=value; write for example -p k=4")
        values[name] = text
        if text and name.rpartition(".")[2] not in text_names:
            with contextlib.suppress(Exception):  # see read_yaml
                values[name] = yaml.safe_load(text)
    return values
