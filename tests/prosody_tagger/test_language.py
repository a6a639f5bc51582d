"""Text in unsupported languages: pauses at its punctuation, no emphasis, and a warning."""

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prosody_tagger.errors import ModelError
from prosody_tagger.language import Verdict, known_words, primary_language
from prosody_tagger.segment import segment_sentences, segment_words
from prosody_tagger.tagger import ProsodyTagger

FOREIGN = {
    "de": "Jedes Kind darf spielen, lernen und ruhen. Niemand soll Hunger leiden müssen: das gilt für alle.",
    "fr": "Chaque enfant peut jouer, apprendre et dormir. Personne ne doit souffrir de la faim : cela vaut pour tous.",
    "es": "Todos los niños pueden jugar, aprender y descansar. Nadie debe pasar hambre: eso vale para todos.",
    "it": "Ogni bambino può giocare, imparare e riposare. Nessuno deve soffrire la fame: questo vale per tutti.",
    "pt": "Todas as crianças podem brincar, aprender e descansar. Ninguém deve passar fome: isso vale para todos.",
    "nl": "Ieder kind mag spelen, leren en rusten. Niemand zou honger moeten lijden: dat geldt voor iedereen.",
    "sv": "Alla barn får leka, lära sig och vila. Ingen ska behöva svälta: det gäller för alla.",
    "pl": "Każde dziecko może się bawić, uczyć i odpoczywać. Nikt nie powinien głodować: to dotyczy wszystkich.",
    "fi": "Jokainen lapsi saa leikkiä, oppia ja levätä. Kenenkään ei pidä nähdä nälkää: se koskee kaikkia.",
    "tr": "Her çocuk oynayabilir, öğrenebilir ve dinlenebilir. Kimse aç kalmamalı: bu herkes için geçerlidir.",
    "vi": "Trẻ em nào cũng được chơi, được học và được nghỉ. Không ai phải chịu đói: điều đó đúng cho mọi người.",
    "ru": "Каждый ребёнок может играть, учиться и отдыхать. Никто не должен голодать: это касается всех.",
    "el": "Κάθε παιδί μπορεί να παίζει, να μαθαίνει και να ξεκουράζεται. Κανείς δεν πρέπει να πεινά: αυτό ισχύει για όλους.",
    "ar": "لكل طفل أن يلعب، وأن يتعلم. هل يجوع أحد؟ لا: هذا للجميع.",
    "he": "כל ילד רשאי לשחק, ללמוד ולנוח. איש לא צריך לרעוב: זה נכון לכולם.",
    "hi": "हर बच्चा खेल सकता है, सीख सकता है। कोई भूखा न रहे: यह सबके लिए है।",
    "zh": "每个孩子都可以玩耍，也可以学习。没有人应该挨饿：人人如此。",
    "ja": "子どもは遊び、学ぶことができます。誰も飢えてはなりません：皆に言えることです。",
    "ko": "모든 아이는 놀고, 배울 수 있습니다. 아무도 굶어서는 안 됩니다: 모두 그렇습니다.",
}
ENGLISH = [
    "How much?",
    "OK",
    "SALE ENDS TODAY: FIFTY PERCENT OFF EVERYTHING",
    "Angela Merkel met Emmanuel Macron in Paris.",
    "Jean Valjean and Cosette walked to Montfermeil.",
    "Paella, tortilla and gazpacho are on the menu.",
    "Mamma mia!",
    "He said 'je ne sais quoi' and left.",
    "Wolfgang Amadeus Mozart, Ludwig van Beethoven, Johann Sebastian Bach",
    "Tokyo, Osaka, Kyoto, Nagoya, Sapporo, Hiroshima",
    "def main() -> None: return x + 1",
    "SELECT name FROM users WHERE id = 3;",
    "git commit -m 'fix' && git push origin main",
    "Section 3.2.1",
    "$299 now",
    "Free returns. Fast shipping. Great prices. Call today!",
    "Die! Die! Die!",
    "1 2 3 4 5",
    "\U0001f600 \U0001f600",
    "Guten Tag.",
    "To be or not to be.",
    "The café in Zürich served crème brûlée.",
]


@pytest.fixture(scope="session")
def shipped() -> ProsodyTagger:
    return ProsodyTagger.load()


def verdict_on(text: str, languages: tuple[str, ...] | None = ("en",), before: Verdict | None = None) -> Verdict:
    return known_words(text, segment_words(text), segment_sentences(text), languages, before)


@pytest.mark.parametrize("language", FOREIGN)
def test_another_language_has_pauses_at_its_punctuation_and_no_emphasis(shipped: ProsodyTagger, language: str) -> None:
    text = FOREIGN[language]
    tagged = shipped.tag(text, "high", [(0, len(text))])
    runs = segment_words(text)
    ends = {end for _, end in segment_sentences(text)}
    wanted = []
    for before, after in pairwise(runs):
        gap = text[before.core_end : after.core_start]
        if after.start in ends:
            wanted.append(("pause_long", after.start))
        elif any(sign in gap for sign in ",:،，：、"):
            wanted.append(("pause_short", after.start))
    assert [(mark.kind, mark.offset) for mark in tagged.marked.marks] == wanted
    assert len({kind for kind, _ in wanted}) == 2
    assert set(tagged.scores) == {None}
    (warning,) = tagged.warnings
    assert "no emphasis" in warning
    assert "a language of the tagger, en" in warning
    assert "PROSODY_TAGGER__ADAPTER" in warning
    assert "\n" not in warning


@pytest.mark.parametrize("language", [name for name, text in FOREIGN.items() if text.upper() != text])
def test_also_in_capitals(language: str) -> None:
    assert not verdict_on(FOREIGN[language].upper()).known.any()


@pytest.mark.parametrize("text", ENGLISH)
def test_english_never_loses_its_emphasis(text: str) -> None:
    for form in (text, text.upper(), text.lower()):
        assert verdict_on(form).known.all()
    assert verdict_on(text).writable.all()


def test_english_needs_no_identifier() -> None:
    code = (
        "import sys; from prosody_tagger.language import known_words; "
        "from prosody_tagger.segment import segment_sentences, segment_words; "
        "ask = lambda text: known_words(text, segment_words(text), segment_sentences(text), ['en']); "
        "ask('It was late, and nobody knew what to do. How much? Then the rain came down for days.'); "
        "assert 'py3langid' not in sys.modules; ask('Das ist nicht so einfach, wie du denkst.'); "
        "assert 'py3langid' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_paragraph_in_another_language(shipped: ProsodyTagger) -> None:
    english = "He turned to the window and said nothing. Guten Tag, mein Herr. She laughed, and they left the house together."
    german = "Alle Kinder dürfen spielen. Wir fahren morgen mit dem Zug nach Hamburg. Ja. So ist es gut."
    text = f"{english}\n\n{german}\n\nThe train left at nine. Nobody spoke."
    tagged = shipped.tag(text, "high")
    stressed = [mark.offset for mark in tagged.marked.marks if mark.kind == "emph"]
    start = len(english) + 2
    assert stressed
    assert not [offset for offset in stressed if start <= offset < start + len(german)]
    assert any(offset > start + len(german) for offset in stressed)
    assert len(tagged.warnings) == 1
    assert "looks like de" in tagged.warnings[0]
    assert not shipped.tag(english).warnings


def test_a_word_of_another_script_in_an_english_sentence(shipped: ProsodyTagger) -> None:
    text = "We met 王さん and Ольга at the station, and everyone was terribly late."
    marks = shipped.mark(text, 1.0).marks
    assert {mark.offset for mark in marks if mark.kind == "emph"}.isdisjoint({text.index("王"), text.index("さ"), text.index("О")})
    assert sum(mark.kind == "emph" for mark in marks) > 8


def test_a_long_text_in_another_language(shipped: ProsodyTagger) -> None:
    text = (FOREIGN["de"] + " Ja. Nein.\n\n") * 100
    tagged = shipped.tag(text)
    portions = list(shipped.tag_in_portions(text))
    assert {mark.kind for mark in tagged.marked.marks} == {"pause_short", "pause_long"}
    assert "".join(portion.marked.text for portion in portions) == text
    assert sum(len(portion.marked.marks) for portion in portions) == len(tagged.marked.marks)
    assert {portion.warnings for portion in portions} == {tagged.warnings}


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_any_text_has_a_verdict(text: str) -> None:
    verdict = verdict_on(text)
    assert len(verdict.known) == len(verdict.writable) == len(segment_words(text))
    assert verdict_on(text, None).known.all()


@pytest.mark.parametrize(
    ("text", "languages", "known"),
    [
        (FOREIGN["de"], ("de",), True),
        (FOREIGN["ru"], ("ru",), True),
        (FOREIGN["ru"], ("en", "uk"), False),
        (FOREIGN["zh"], ("ja",), False),
        (FOREIGN["de"], ("en", "de"), True),
        (FOREIGN["fr"], ("en", "de"), False),
        ("It was the best of times, and it was the worst of times.", ("de",), False),
        (FOREIGN["de"], ("tlh",), True),
    ],
)
def test_an_adapter_for_other_languages(text: str, languages: tuple[str, ...], known: bool) -> None:
    assert set(verdict_on(text, languages).known.tolist()) == {known}


def test_what_an_adapter_declares(tiny_tagger: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_tagger.parent, tmp_path / "t")
    folder = tmp_path / "t" / "adapter"
    file = folder / "thresholds.json"
    own = json.loads(file.read_text())
    assert ProsodyTagger.load(folder).thresholds.languages is None
    assert any(mark.kind == "emph" for mark in ProsodyTagger.load(folder).mark(FOREIGN["de"], "high").marks)
    file.write_text(json.dumps(own | {"languages": ["de-AT", "FR"]}))
    assert ProsodyTagger.load(folder).thresholds.languages == ("de", "fr")
    for broken in ("en", ["english!"], [3], 7):
        file.write_text(json.dumps(own | {"languages": broken}))
        with pytest.raises(ModelError, match=r"thresholds.json is broken"):
            ProsodyTagger.load(folder)


def test_threads_share_the_identifier() -> None:
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(bool(verdict_on(FOREIGN["it"]).known.any()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [False] * 8


def test_a_tag_names_its_language() -> None:
    assert [primary_language(tag) for tag in ("en", "EN-gb", "zh_Hant")] == ["en", "en", "zh"]


def test_a_supported_text_has_the_pauses_of_the_tagger(shipped: ProsodyTagger) -> None:
    """Pauses by punctuation are used only for unsupported languages."""
    knows_all = ProsodyTagger(shipped.model, replace(shipped.thresholds, languages=None))
    text = "It was late, and nobody knew what to do. Then the rain came down for days."
    assert shipped.tag(text) == knows_all.tag(text)
