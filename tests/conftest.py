"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
from tiny_tagger import make_tagger


@pytest.fixture(scope="session")
def tiny_tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tagger(tmp_path_factory.mktemp("tagger"))
