import pytest

from expressway.core import cohort


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 128 genes: toy problems of fewer are padded to that, not to 4096."""
    monkeypatch.setattr(cohort, "BLOCK_ELEMENTS", 2**10)
