"""Running `prosody serve` processes, for tests with clients of other projects."""

from collections.abc import Iterator

import pytest
from own_service import Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server") / "log.txt") as found:
        yield found


@pytest.fixture(scope="session")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose deadline is too short for the text LONG."""
    with serving(tmp_path_factory.mktemp("hurried") / "log.txt", PROSODY_API__DEADLINE="2") as found:
        found.wav_seconds("The first text takes longer.")
        yield found


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
