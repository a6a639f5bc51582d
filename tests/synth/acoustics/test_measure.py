import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic_speech import RATE, Said, speak

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import KINDS, Mark, MarkedText, parse, plain
from synth.acoustics.measure import measure
from synth.acoustics.report import MarkReport, Report
from synth.base import Audio, WordTime

WORDS = ("we", "never", "said", "that", "you", "could")


def said(**changes: Said) -> list[Said]:
    return [changes.get(word, Said(word)) for word in WORDS]


def stressed(word: str) -> Said:
    return Said(word, seconds=0.36, hertz=155.0, gain_db=5.0)


def measured(source: str, items: list[Said], reference: list[Said] | None = None) -> Report:
    """Return the report on speech of ``items``, the words of ``source``."""
    audio, text, words = speak(*items)
    marked = parse(source)
    assert marked.text == text
    other = None
    if reference is not None:
        plain_audio, _, plain_words = speak(*reference)
        other = (plain_audio, plain_words)
    return measure(audio, marked, words, reference=other)


def only(report: Report) -> MarkReport:
    assert report.asked == 1
    return report.marks[0]


def test_an_audible_emphasis_is_realised() -> None:
    mark = only(measured("we never <emph>said that you could", said(said=stressed("said"))))
    assert mark.realised
    assert mark.word == "said"
    assert mark.score > 0.5
    assert mark.figures is not None
    assert mark.figures.rank == 1
    assert mark.figures.duration_ms == pytest.approx(360, abs=1)
    assert mark.figures.energy_db == pytest.approx(5.0, abs=2.0)
    assert mark.figures.pitch_semitones == pytest.approx(12 * np.log2(155 / 120), abs=0.3)
    assert mark.change is None


def test_an_emphasis_on_another_word_is_not_realised_and_counts_as_false() -> None:
    report = measured("we <emph>never said that you could", said(that=replace(stressed("that"), seconds=0.5, hertz=180.0)))
    assert not only(report).realised
    assert [(item.kind, item.word) for item in report.false] == [("emph", "that")]


def test_the_change_is_relative_to_the_reference() -> None:
    changed = said(said=stressed("said"))
    mark = only(measured("we never <emph>said that you could", changed, said()))
    assert mark.realised
    assert mark.change is not None
    assert mark.change.duration_ratio == pytest.approx(0.36 / 0.25, rel=0.02)
    assert mark.change.energy_db == pytest.approx(5.0, abs=2.0)
    assert mark.change.pitch_semitones == pytest.approx(12 * np.log2(155 / 120), abs=0.3)
    assert mark.change.prominence > 0
    assert mark.change.departure > 1.5


def test_a_plain_reading_by_another_voice_shows_what_stands_out() -> None:
    # "never" is always the most prominent here, so that it takes another's reading to hear the emphasis on "said".
    natural = {"never": Said("never", seconds=0.5, hertz=150.0, gain_db=4.0)}
    audio, text, words = speak(*said(**natural, said=stressed("said")))
    other = {name: replace(item, hertz=1.5 * item.hertz) for name, item in natural.items()}
    reading_audio, _, reading_words = speak(*(other.get(word, Said(word, hertz=180.0)) for word in WORDS))
    marked = parse("we never <emph>said that you could")
    assert marked.text == text
    assert not only(measure(audio, marked, words)).realised
    heard = measure(audio, marked, words, reading=(reading_audio, reading_words))
    assert only(heard).realised
    assert heard.false == ()
    plain_audio, _, plain_words = speak(*said(**natural))
    assert not only(measure(plain_audio, marked, plain_words, reading=(reading_audio, reading_words))).realised


def test_a_word_changed_without_a_mark_is_reported() -> None:
    report = measured("we never said that you could", said(said=stressed("said")), said())
    assert [(item.kind, item.word) for item in report.false] == [("emph", "said")]
    assert measured("we never said that you could", said(), said()).false == ()


@pytest.mark.parametrize(
    ("length", "realised"), [(0.25, True), (0.235, True), (0.265, True), (0.20, False), (0.30, False), (0.0, False)]
)
def test_a_pause_is_true_when_it_is_as_long_as_asked(length: float, realised: bool) -> None:
    mark = only(measured("we never <pause_short>said that you could", said(said=Said("said", gap=length))))
    assert mark.realised is realised
    assert (mark.score >= 0.5) is realised
    assert mark.asked_ms == 250
    assert mark.silence_ms == pytest.approx(1000 * length, abs=11)


def test_pauses_in_one_slot_add_up() -> None:
    report = measured("we never <pause_short><pause_long:300ms>said that you could", said(said=Said("said", gap=0.55)))
    assert [mark.realised for mark in report.marks] == [True, True]
    assert {mark.asked_ms for mark in report.marks} == {550}


def test_a_longer_silence_of_the_voice_counts_at_punctuation_and_where_the_reference_has_it() -> None:
    long = said(said=Said("said", gap=0.5))
    assert not only(measured("we never <pause_short>said that you could", long)).realised
    found = only(measured("we never <pause_short>said that you could", long, long))
    assert found.realised
    assert found.reference_ms == pytest.approx(500, abs=11)
    punctuated = said(never=Said("never,"), said=Said("said", gap=0.5))
    assert only(measured("we never, <pause_short>said that you could", punctuated)).realised
    assert not only(measured("we never, <pause_short>said that you could", punctuated, said(never=Said("never,")))).realised


def test_pauses_at_the_edges_include_silence_at_the_edge() -> None:
    audio, text, words = speak(*said(), lead=0.25, tail=0.7)
    marked = MarkedText(text, (Mark("pause_short", 0), Mark("pause_long", len(text))))
    first, last = measure(audio, marked, words).marks
    assert first.silence_ms == pytest.approx(250, abs=11)
    assert last.silence_ms == pytest.approx(700, abs=11)
    assert first.realised
    assert last.realised
    assert last.word is None


def test_a_pause_inside_a_word_is_measured_there() -> None:
    audio, _, words = speak(Said("un"), Said("true", gap=0.3), Said("is"))
    whole = [WordTime("untrue", 0, words[0].start, words[1].end), WordTime("is", 7, words[2].start, words[2].end)]
    mark = only(measure(audio, parse("un<pause_short:300ms>true is"), whole))
    assert mark.silence_ms == pytest.approx(300, abs=11)
    assert mark.realised


def test_a_silence_without_a_mark_is_reported() -> None:
    report = measured("we never said that you could", said(that=Said("that", gap=0.3)))
    assert [(item.kind, item.word) for item in report.false] == [("pause", "that")]
    punctuated = measured("we never said, that you could", said(said=Said("said,"), that=Said("that", gap=0.3)))
    assert punctuated.false == ()


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("pitch_high", {"hertz": 150.0}),
        ("pitch_low", {"hertz": 95.0}),
        ("pitch_rising", {"rise": 6.0}),
        ("pitch_falling", {"rise": -6.0}),
    ],
)
@pytest.mark.parametrize("compared", [False, True])
def test_each_pitch_mark_is_measured_where_it_is_and_nowhere_else(kind: str, how: dict[str, float], compared: bool) -> None:
    changed = said(that=Said("that", **how))
    reference = said() if compared else None
    mark = only(measured(f"we never said <{kind}>that you could", changed, reference))
    assert mark.realised
    assert mark.score > 0.5
    assert not only(measured(f"we never said <{kind}>that you could", said(), reference)).realised
    opposite = {
        "pitch_high": "pitch_low",
        "pitch_low": "pitch_high",
        "pitch_rising": "pitch_falling",
        "pitch_falling": "pitch_rising",
    }
    assert not only(measured(f"we never said <{opposite[kind]}>that you could", changed, reference)).realised


def test_marks_without_an_audible_word_say_so() -> None:
    audio, text, words = speak(*said())
    at_end = only(measure(audio, MarkedText(text, (Mark("emph", len(text)),)), words))
    assert not at_end.realised
    assert "no word" in at_end.note
    silent = [replace(word, end=word.start) if word.word == "said" else word for word in words]
    unheard = only(measure(audio, parse("we never <emph>said that you could"), silent))
    assert "not audible" in unheard.note
    missing = only(measure(audio, parse("we never <emph>said that you could"), [w for w in words if w.word != "said"]))
    assert "not audible" in missing.note


def test_a_single_word_needs_a_reference() -> None:
    audio, _, words = speak(stressed("stop"))
    alone = only(measure(audio, parse("<emph>stop"), words))
    assert not alone.realised
    assert "reference" in alone.note
    plain_audio, _, plain_words = speak(Said("stop"))
    compared = only(measure(audio, parse("<emph>stop"), words, reference=(plain_audio, plain_words)))
    assert compared.change is not None


def test_emphasis_is_judged_within_its_sentence() -> None:
    items = [Said("we"), stressed("know."), Said("they"), replace(stressed("said"), hertz=140.0, gain_db=3.0), Said("so.")]
    audio, text, words = speak(*items)
    report = measure(audio, parse("We know. They <emph>said so.".replace("We", "we").replace("They", "they")), words)
    assert report.marks[0].figures is not None
    assert text == "we know. they said so."


def test_the_report_is_json_with_the_same_keys_always() -> None:
    everything = MarkedText(" ".join(WORDS), tuple(Mark(kind, 3) for kind in KINDS))
    audio, _, words = speak(*said())
    full = measure(audio, everything, words, reference=(audio, words)).as_dict()
    empty = measure(audio, plain(" ".join(WORDS)), words).as_dict()
    json.dumps(full, allow_nan=False)
    assert full.keys() == empty.keys()
    assert {frozenset(mark) for mark in full["marks"]} == {frozenset(full["marks"][0])}
    assert full["asked"] == len(KINDS)
    assert full["realised"] == sum(mark["realised"] for mark in full["marks"])
    assert set(full["by_kind"]) == set(KINDS)
    assert empty["asked"] == empty["realised"] == 0


@pytest.mark.parametrize("kind", ["silence", "noise", "clipped"])
def test_audio_without_speech_is_measured(kind: str) -> None:
    _, text, words = speak(*said())
    rng = np.random.default_rng(0)
    sound = {
        "silence": np.zeros(2 * RATE),
        "noise": rng.normal(0, 0.1, 2 * RATE),
        "clipped": np.sign(rng.normal(0, 1, 2 * RATE)),
    }[kind]
    marked = parse("<pitch_high>we never <emph>said <pause_long>that <pitch_rising>you could")
    assert marked.text == text
    report = measure(Audio(sound.astype(np.float32), RATE), marked, words).as_dict()
    json.dumps(report, allow_nan=False)
    if kind == "silence":
        assert not any(mark["realised"] for mark in report["marks"] if mark["kind"] != "pause_long")


def test_bad_input_is_refused_with_the_reason() -> None:
    audio, text, words = speak(*said())
    with pytest.raises(BadInput, match="0 samples"):
        measure(Audio(np.zeros(0, dtype=np.float32), RATE), plain(text), [])
    with pytest.raises(BadInput, match="NaN"):
        measure(Audio(np.full(RATE, np.nan, dtype=np.float32), RATE), plain(text), words)
    with pytest.raises(BadInput, match="'never'"):
        measure(audio, plain("some other text"), words)
    with pytest.raises(BadInput, match="'we'"):
        measure(audio, plain(text), [replace(words[0], start=float("nan"))])


def test_a_text_without_words_and_words_without_times() -> None:
    audio, text, _ = speak(*said())
    assert measure(audio, plain(""), []).words == ()
    alone = measure(audio, parse("<pause_long>"), [])
    assert not alone.marks[0].realised
    report = measure(audio, parse("we <emph>never said that you could"), [])
    assert not report.realised
    assert len(report.words) == len(text.split())
