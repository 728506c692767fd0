"""Parameters of the three notebooks: names, types, defaults, ranges and meanings.

The YAML files of ``params/``, ``-p name=value`` and the notebooks' ``parameters`` cells use the same flat names; the
defaults are the tiny preset. papermill only warns of an unknown name, and YAML reads ``1e-3`` as text, so
:class:`Record` refuses unknown names and wrong types with one line.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import one_line


class Record(BaseModel):
    """A frozen, strictly typed record: an int serves as a float, all other wrong types are an InputError."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(_one_line(error, self.names())) from None

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the fields, in order."""
        return tuple(cls.model_fields)

    def changed(self, **values: object) -> Self:
        """The same record with other values."""
        return type(self)(**self.as_dict() | values)

    def as_dict(self) -> dict[str, Any]:
        """All values, by name."""
        return self.model_dump()


def _one_line(error: ValidationError, names: tuple[str, ...]) -> str:
    """The first error as ``name: what is wrong; what to do``; unknown names take precedence."""
    fault = min(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    kind, value, own = fault["type"], fault["input"], fault.get("ctx", {}).get("error")
    if isinstance(own, InputError):
        return str(own)
    types = ("bool", "int", "float", "str")  # the branch of a union
    name = ".".join(str(part) for part in fault["loc"] if part not in types)
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(name, names, 1)
        what = f"did you mean {near[0]}?" if near else "the parameters are " + ", ".join(names)
        return f"{name}: no such parameter; {what}"
    if kind == "missing":
        return f"{name}: is missing"
    wanted = fault["msg"].replace("Input should be", "it should be")
    if kind == "float_type" and isinstance(value, str):
        wanted += ", written as in 0.001"  # YAML reads 1e-3 as text
    return f"{name}: {_shown(value)} is not accepted; {wanted}"


def _shown(value: object) -> str:
    """The start of a value's repr; numbers of more than 4,300 digits have none."""
    try:
        return repr(value)[:60]
    except ValueError:
        return "this number"


def check_seed(seed: object) -> None:
    """Refuse what is not a seed of 32 bits or "entropy"."""
    if seed != "entropy" and (type(seed) is not int or not 0 <= seed < 2**32):
        raise InputError(f'seed: {_shown(seed)} is not a seed; give 0 .. 4294967295 or "entropy"')


def check_key(key: object) -> None:
    """Refuse what is neither 64 hex digits nor empty."""
    if key != "" and not (isinstance(key, str) and re.fullmatch("[0-9a-fA-F]{64}", key)):
        raise InputError('key: is not 64 hex digits; give 64 of 0-9a-f, or "" to draw them')


_ASSIGNED = re.compile(r"^(\w+)\s*(?::[^=\n]*)?=(?!=)", re.M)  # the names assigned in a cell, one per line


class _Parameters(Record):
    """The parameters of one notebook."""

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Make parameters from a notebook's variables.

        Every name assigned in the last executed cell that assigns most parameters, or in the cell that papermill
        injected, must be a parameter. Other variables are ignored.
        """
        known = set(cls.names())
        cells = [(source, set(_ASSIGNED.findall(source))) for source in namespace.get("In", [])]
        own = [names for _, names in cells if 2 * len(names & known) > len(known)][-1:]
        own += [names for source, names in cells if source.startswith("# Parameters")][-1:]
        meant = sorted(name for name in known.union(*own) if not name.startswith("PAPERMILL_"))
        return cls(**{name: namespace[name] for name in meant if name in namespace})


def _p(default: Any, text: str, least: int | None = None) -> Any:
    return Field(default, description=text, ge=least, le=None if least is None else 2**31 - 1)


class ChallengeParams(Record):
    """Parameters of a challenge that are published."""

    rng: str = "mt19937"
    scheme: Literal["cross", "inside", "mixup"] = _p(
        "cross", "cross (private and public images), inside (k private) or mixup"
    )
    n_private: int = _p(20, "number of private images", 2)
    encryptions_per_image: int = _p(50, "epochs; the release holds n_private times as many encryptions", 1)
    k: int = _p(4, "number of images mixed into one encryption, 2 .. 16")
    max_coefficient: float = _p(0.65, "largest coefficient of a mixture, in (1/k, 1]")
    min_private_sum: float = _p(0.30, "cross: least sum of the private coefficients")
    private_source: str = _p("embedded", "embedded, cifar10[:ROOT], imagenette[:ROOT], a folder or .npz")
    public_source: str = _p("embedded", "same choices; random crops of its photographs")
    n_public: int = _p(200, "number of public images (crops); cross needs n_private or more", 0)
    public_once: bool = _p(False, "cross: no public image is used twice, so that n_public must be large")
    min_keypoints: int = _p(40, "a crop is kept if SIFT finds more key points than this", 0)
    labels: Literal["coefficients", "classes", "none"] = _p(
        "coefficients", "what label.npy shows: coefficients, classes (0 or 1) or none (no label.npy)"
    )
    augment: Literal["none", "flip", "crop", "crop_flip"] = _p(
        "none", "view of each private image in each epoch: none, flip, crop or crop_flip"
    )
    eight_bits: bool = _p(False, "round encryption.npy to 8-bit pixels: 2u/255 - 1 with a whole number u")
    private_per_mix: int = _p(2, "cross: how many of the k images are private, 1 .. k", 1)

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        """Refuse constraints that no row of k coefficients can meet."""
        k, p, most, least = self.k, self.private_per_mix, self.max_coefficient, self.min_private_sum
        if not 2 <= k <= 16:
            raise InputError(f"k: {k} images cannot be mixed; give 2 .. 16")
        if self.scheme == "mixup" and k != 2:
            raise InputError(f"k: Mixup mixes two images, not {k}; give k = 2 or another scheme")
        if not 1 / k < most <= 1:
            raise InputError(f"max_coefficient: {most} is outside ({1 / k:.4g}, 1]")
        if self.scheme == "cross" and p > k:
            raise InputError(f"private_per_mix: {p} of {k} images cannot be private; give 1 .. {k}")
        # With public images beside them, p coefficients never sum to their limit itself.
        reach = 1.0 if k == p else min(1.0, p * most)
        if self.scheme == "cross" and not (0 <= least < reach or (k == p and least == reach)):
            met = f"{least} cannot be met with max_coefficient {most}"
            raise InputError(f"min_private_sum: {met}; give 0 .. {reach:.4g}")
        return self

    @property
    def private_per_row(self) -> int:
        """p: how many of the k images of an encryption are private."""
        return self.private_per_mix if self.scheme == "cross" else self.k

    @property
    def least_private_sum(self) -> float:
        """The least sum of the private coefficients; 0 where all images are private."""
        return self.min_private_sum if self.scheme == "cross" else 0.0

    @property
    def public_needed(self) -> int:
        """The fewest public images: those of an epoch or, if none is used twice, of all epochs."""
        uses = self.encryptions_per_image * (self.k - self.private_per_row) if self.public_once else 1
        return self.n_private * max(uses, 1) if self.scheme == "cross" else 0


class _Start(Record):
    """The folder of a run and the start of its random stream; a base class, so that these fields come first."""

    out_dir: str = _p("runs/tiny", "folder of the run; release/ and secret/ are made in it")
    seed: int | str = _p(2020, 'seed of the challenge, 0 .. 4294967295, or "entropy"; secret')
    rng: str
    key: str = _p("", 'secure generators and seed entropy: 64 hex digits; "" draws them; secret')


class GenDataParams(_Parameters, ChallengeParams, _Start):
    """Parameters of ``gen_data``."""

    rng: Literal["mt19937", "chacha20", "mt19937-secure-permutations"] = _p(
        "mt19937", "mt19937 (as in 2020), chacha20 (secure) or mt19937-secure-permutations (only those are secure)"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_seed(self.seed)
        if self.key and self.rng == "mt19937" and self.seed != "entropy":
            raise InputError("key: rng mt19937 has a seed, not a key; leave key empty or choose another rng")
        check_key(self.key)
        if self.n_public < self.public_needed:
            often = self.public_needed > self.n_private
            product = "n_private x encryptions_per_image x (k - p)" if often else "n_private"
            raise InputError(f"n_public: {self.n_public} is too few; give {product} ({self.public_needed}) or more")
        return self


class AttackParams(_Parameters):
    """Parameters of ``attack``."""

    release_dir: str = _p("runs/tiny/release", "folder with encryption.npy and label.npy")
    out_dir: str = _p("runs/tiny/attack/unmask", "folder for the results of the attack")
    method: str = _p(
        "unmask", "unmask, prng-state, prng-seed, carlini-v2, carlini-v1, an entry point's name or module:function"
    )
    public_source: str = _p("embedded:attacker", "the attacker's own public photographs")
    n_public: int = _p(200, "number of crops of these photographs", 1)
    seed_start: int = _p(0, "prng-seed: first seed of the scan")
    seed_stop: int = _p(2**32, "prng-seed: end of the scan (exclusive)")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 <= self.seed_start < self.seed_stop <= 2**32:
            raise InputError(f"seed_start, seed_stop: give 0 <= seed_start < seed_stop <= {2**32}")
        return self


class EvaluateParams(_Parameters):
    """Parameters of ``evaluate``."""

    release_dir: str = _p("runs/tiny/release", "folder with encryption.npy and label.npy")
    secret_dir: str = _p("runs/tiny/secret", "folder with the private images")
    decryption: str = _p("runs/tiny/attack/unmask/decryption.npy", "the decryption to score: .npy or submission .zip")
    out_dir: str = _p("runs/tiny/evaluate/unmask", "folder for metrics and figures")
    name: str = _p("unmask", "name of the attack on the leaderboard")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.strip():
            raise InputError("name: is empty; give the attack's name")
        return name


NOTEBOOKS: dict[str, type[_Parameters]] = {
    "gen_data": GenDataParams,
    "attack": AttackParams,
    "evaluate": EvaluateParams,
}
"""The notebooks in the order in which they run, with the class of their parameters."""


def read_yaml(path: Path | str, *, nested: bool = False) -> dict[str, Any]:
    """Read a YAML file of names and values, plain ones unless `nested`."""
    import yaml

    with one_line(path, advice="check the path"):
        text = Path(path).read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
    except Exception:  # PyYAML also raises the errors of int(), date() and dict lookups
        content = "not YAML"
    if content is None:
        return {}
    deep = isinstance(content, dict) and any(isinstance(value, dict | list) for value in content.values())
    if not isinstance(content, dict) or (deep and not nested):
        raise InputError(f"{path}: is not a list of names and values; write one 'name: value' per line")
    return {str(name): value for name, value in content.items()}


def read_assignments(pairs: Iterable[str]) -> dict[str, Any]:
    """Read ``name=value`` or ``notebook.name=value``; values of text parameters stay text, others are YAML."""
    import yaml

    defaults = [item for kind in NOTEBOOKS.values() for item in kind().as_dict().items()]
    text_names = {name for name, default in defaults if isinstance(default, str)}
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
