"""The attacks by name: this package's five, those of installed packages, and any ``module:function``.

A name may be followed by options of the attack, ``:option=value,option=value``, whose values are text.

A package adds attacks through the entry point group ``instahide_nb.attacks``. An attack is a function
``attack(release, public)`` that returns an :class:`~instahide_nb.attacks.result.AttackResult`. Its arguments:

* release : :class:`~instahide_nb.challenge.release.Release`, all that was published;
* public : uint8 (m, h, w, 3), the attacker's own public images;
* seed_start, seed_stop : int, keyword-only, optional: the seeds to scan;
* workdir : Path or None, keyword-only, optional: a folder for files between stages;
* further keyword-only arguments of type str are its options.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from instahide_nb.attacks.result import AttackResult
from instahide_nb.challenge.release import Release
from instahide_nb.core.arrays import UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.params import ChallengeParams
from instahide_nb.core.progress import Stopwatch, progress
from instahide_nb.core.threads import one_blas_thread

if TYPE_CHECKING:
    from instahide_nb.attacks.unmask.attack import Unmask

_GROUP = "instahide_nb.attacks"
_GIVEN = ("seed_start", "seed_stop", "workdir")  # what run_attack passes by itself
_OWN = {
    "unmask": "instahide_nb.attacks.unmask.attack:run",
    "prng-state": "instahide_nb.attacks.generator.attack:prng_state",
    "prng-seed": "instahide_nb.attacks.generator.attack:prng_seed",
    "carlini-v2": "instahide_nb.attacks.carlini.attack:run_v2",
    "carlini-v1": "instahide_nb.attacks.carlini.attack:run_v1",
}

METHODS = tuple(_OWN)
"""The attacks of this package; others are named ``module:function`` or come from an entry point."""


def method_names() -> list[str]:
    """Names that ``method`` accepts, besides ``module:function``."""
    return [*_OWN, *sorted(point.name for point in entry_points(group=_GROUP) if point.name not in _OWN)]


def split_options(method: str) -> tuple[str, dict[str, str]]:
    """The attack's name and its options; an InputError if these are not ``option=value``.

    Examples
    --------
    >>> split_options("mine:depth=3,colour=green")
    ('mine', {'depth': '3', 'colour': 'green'})
    >>> split_options("mine:attack")
    ('mine:attack', {})
    """
    name, _, text = method.rpartition(":")
    if "=" not in text:
        return method, {}
    options = {}
    for part in text.split(","):
        option, equals, value = part.partition("=")
        if not (option and equals and value) or option in options:
            raise InputError(f"method: {method!r} is not understood at {part!r}; write NAME:option=value,option=value")
        options[option] = value
    return name, options


def check_method(method: str) -> None:
    """Raise what :func:`find_attack` would, without loading this package's attacks."""
    if method not in _OWN:
        find_attack(method)


def why_not(method: str, about: ChallengeParams) -> str:
    """Why an attack of this package cannot attack such a release; empty if it can, and for other attacks."""
    name = split_options(method)[0]
    if name.startswith("carlini-") and (about.scheme, about.private_per_row) != ("cross", 2):
        return (
            f"{name} attacks encryptions of the scheme cross with two private images, "
            f"not {about.scheme} with {about.private_per_row}"
        )
    if name.startswith("carlini-") and about.labels == "none":
        return f"{name} needs labels; this release has none"
    if name == "prng-seed" and about.labels != "coefficients":
        return f"{name} needs labels with coefficients; the labels of this release are {about.labels!r}"
    if name == "unmask" and "crop" in about.augment and about.scheme != "cross":
        return f"{name} attacks cropped private images ({about.augment}) of the scheme cross only, not {about.scheme}"
    return ""


def counted(release: Release, public: UInt8) -> Release:
    """The release, with `n_private` estimated from the encryptions if release.json lacks it."""
    if "n_private" not in release.assumed:
        return release
    from instahide_nb.attacks.unmask.attack import count_private

    with one_blas_thread():
        return count_private(release, public)


def find_attack(method: str) -> Callable[..., AttackResult]:
    """The function that a method names; an InputError if there is none, or if it has no such option."""
    name, options = split_options(method)
    found = _find_function(name)
    if options:
        try:
            accepted = inspect.signature(found).parameters.values()
        except (TypeError, ValueError):
            raise InputError(f"method: {name} is not a function attack(release, public, ...)") from None
        free = [p.name for p in accepted if p.kind is p.KEYWORD_ONLY and p.name not in _GIVEN]
        for option in options:
            if option not in free:
                has = f"its options are {', '.join(free)}" if free else "it has none"
                raise InputError(f"method: {name} has no option {option!r}; {has}")
    return found


def _find_function(method: str) -> Callable[..., AttackResult]:
    target = _OWN.get(method)
    if target is None:
        for point in entry_points(group=_GROUP):
            if point.name == method:
                target = point.value
    target = target or method
    module_name, _, function_name = target.partition(":")
    if not function_name or not module_name or module_name.startswith("."):
        raise InputError(f"method: {method!r} is not known; choose {', '.join(method_names())} or module:function")
    if "" not in sys.path:
        sys.path.append("")  # a module beside the notebook or in the working directory
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"method: {method!r} cannot be loaded ({error}); install it or correct the name") from None
    found = getattr(module, function_name, None)
    if not callable(found):
        raise InputError(f"method: module {module_name} has no function {function_name}; correct the name")
    return found


def run_attack(
    method: str,
    release: Release,
    public: UInt8,
    *,
    seed_start: int = 0,
    seed_stop: int = 2**32,
    workdir: Path | None = None,
) -> AttackResult:
    """Run an attack, with BLAS on one thread, and check that its result fits the release.

    For `method` see :func:`method_names`. The other arguments are passed to the attack if it has them (see the module).
    An InputError says that there is no such attack, or that it returns arrays of wrong dtypes or shapes.
    """
    attack = find_attack(method)
    options: dict[str, object] = {"seed_start": seed_start, "seed_stop": seed_stop, "workdir": workdir}
    try:
        signature = inspect.signature(attack)
        accepted = signature.parameters
        if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
            options = {name: value for name, value in options.items() if name in accepted}
        options |= split_options(method)[1]
        signature.bind(release, public, **options)
    except (TypeError, ValueError):
        raise InputError(f"method: {method} is not a function attack(release, public, ...)") from None
    if why := why_not(method, release.info):
        raise InputError(f"method: {why}")
    watch = Stopwatch()
    release = counted(release, public)
    with one_blas_thread(), watch.stage("attack"):
        result = attack(release, public, **options)
    if not isinstance(result, AttackResult):
        raise InputError(f"method: {method} returned {type(result).__name__}; an attack returns an AttackResult")
    n, image = len(release.encryption), release.encryption.shape[1:]
    expected = (
        ("decryption", np.float32, (n, *image)),
        ("recovered", np.float32, (len(result.recovered), *image)),
        ("assignment", np.int64, (n, release.info.private_per_row)),
    )
    for name, dtype, shape in expected if result.recovered_generator is not False else ():
        array = np.asarray(getattr(result, name))
        if array.shape != shape or array.dtype != dtype:
            raise InputError(
                f"method: {method} returned {name} as {array.dtype} {array.shape}; "
                f"{np.dtype(dtype)} {shape} is expected"
            )
    # By this name a submission finds the source of the attack.
    return replace(result, method=method, seconds=result.seconds or watch.seconds)


class Steps:
    """`unmask` stage by stage, for a notebook; other attacks run as a whole in `result`.

    `options` are those of :func:`run_attack`.
    """

    def __init__(self, method: str, release: Release, public: UInt8, **options: int | Path) -> None:
        self._whole: Callable[[], AttackResult] = partial(run_attack, method, release, public, **options)  # type: ignore[arg-type]
        self._walk: Unmask | None = None
        if split_options(method)[0] == "unmask":
            from instahide_nb.attacks.unmask.attack import Unmask

            self._walk = Unmask(release, public)

    def __call__(self, stage: str) -> Unmask | None:
        """Run a stage, a method of `Unmask`, with a progress bar; returns the attack, or None if it has no stages."""
        if self._walk is not None:
            with one_blas_thread(), progress(desc="unmask", unit="stage") as self._walk.watch.bar:
                getattr(self._walk, stage)()
            self._walk.watch.bar = None
        return self._walk

    def result(self) -> AttackResult:
        """What the attack returns, once all stages ran."""
        if self._walk is None:
            return self._whole()
        from instahide_nb.attacks.unmask.attack import answer

        return answer(self._walk.result())
