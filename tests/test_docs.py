"""The generated parts of the documentation agree with the code. To renew them: python docs/generate.py"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "generate.py"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_documents_are_up_to_date(generate: ModuleType) -> None:
    differing = [str(path.relative_to(generate.ROOT)) for path in generate.outdated()]
    assert not differing, f"{differing} differ from the code; run: python docs/generate.py"


def test_a_stale_page_that_is_generated_whole_is_found(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in generate.FILES:
        monkeypatch.setitem(generate.FILES, name, lambda: "Something else.\n")
    assert {str(path.relative_to(generate.ROOT)) for path in generate.outdated()} == set(generate.FILES)


def test_every_part_stands_in_a_document(generate: ModuleType) -> None:
    texts = [path.read_text(encoding="utf-8") for pattern in generate.DOCUMENTS for path in generate.ROOT.glob(pattern)]
    missing = [name for name in generate.PARTS if not any(f"<!-- generated: {name} -->" in text for text in texts)]
    assert not missing


def test_every_command_has_a_section(generate: ModuleType) -> None:
    page = generate.commands()
    for name in (
        "python ai_core/main.py",
        "prosody say",
        "prosody adapter merge",
        "prosody higgs convert",
        "train-tagger",
        "evaluate-tagger",
        "train-higgs",
    ):
        assert f"## {name}\n`{name} " in page


def test_a_stale_part_is_renewed(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(generate.PARTS, "greeting", lambda: "Hello.\n")
    stale = "before\n<!-- generated: greeting -->\nGoodbye.\n<!-- end -->\nafter\n"
    fresh = stale.replace("Goodbye", "Hello")
    assert generate.renewed(stale) == generate.renewed(fresh) == fresh


def test_an_unknown_part_is_an_error(generate: ModuleType) -> None:
    with pytest.raises(KeyError, match="nonsense"):
        generate.renewed("<!-- generated: nonsense -->\n<!-- end -->\n")


def test_check_reports_and_changes_nothing(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("<!-- generated: greeting -->\n<!-- end -->\n")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "FILES", {})
    monkeypatch.setitem(generate.PARTS, "greeting", lambda: "Hello.\n")
    for arguments, status, said in ((["--check"], 1, "out of date"), ([], 0, "written"), (["--check"], 0, "")):
        monkeypatch.setattr(sys, "argv", ["generate.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            generate.main()
        assert ended.value.code == status
        assert said in capsys.readouterr().out
    assert (tmp_path / "README.md").read_text() == "<!-- generated: greeting -->\nHello.\n<!-- end -->\n"
