"""For `pytest --nbval notebooks/`: gen_data comes before attack and evaluate, which read what it writes."""

import pytest

ORDER = ("gen_data", "attack", "evaluate")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the notebooks in their order; cells keep theirs."""
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.suffix == ".ipynb" else -1)
