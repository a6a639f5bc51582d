"""The pieces of the network against the whole, the cut on the wire format, and the cache of the dictionaries."""

import marshal
from pathlib import Path

import numpy as np
import pytest

from prosody_tagger.markup import plain
from synth.base import SpeechRequest
from synth.natural import dictionaries, package
from synth.natural.network import FRAMES_PER_STEP, natural_steps, network
from synth.natural.onnx_graph import FLOAT, OnnxGraph, TensorType
from synth.natural.pronunciation import Symbol, pronounce, symbol_ids, with_stress

TEXTS = (
    "I never said she stole my money.",
    "No.",
    "Is it raining?",
    "On the 3rd of March 2024, 1,250 people paid $9.99 each to hear it read at 7:30 pm.",
)


def symbols_of(text: str) -> tuple[Symbol, ...]:
    return pronounce(SpeechRequest(plain(text))).symbols


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_equal_the_whole_bit_for_bit(text: str) -> None:
    import onnxruntime
    from hibari import dsp

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    whole = onnxruntime.InferenceSession(package.read_model(), options, providers=["CPUExecutionProvider"])
    net, ids = network(), symbol_ids(symbols_of(text))
    *spectra, pitch = (
        output[0] for output in whole.run(None, {"ids": np.asarray([ids], np.int64), "speed": np.ones(1, np.float32)})
    )
    encoded = net.encode(ids)
    steps = natural_steps(encoded.durations)
    own_pitch, energy = net.melody(encoded, steps)
    own_spectra = net.spectra(encoded, FRAMES_PER_STEP * steps, own_pitch, energy)
    assert np.array_equal(own_pitch, pitch)
    for own, other in zip(own_spectra, spectra, strict=True):
        assert np.array_equal(own, other)
    samples = dsp.synth(*spectra, pitch, np.random.default_rng(5))
    assert np.array_equal(net.waveform(own_spectra, own_pitch, 5), samples)


def test_plain_text_has_the_phonemes_of_the_package() -> None:
    from hibari.g2p import G2P

    reader = G2P()
    for text in ("Please bring the red book home today, and don't forget the other one.", "Did you read what I had read?"):
        assert "".join(symbol.character for symbol in symbols_of(text)) == reader(text)


def test_every_symbol_belongs_to_its_word() -> None:
    symbols = symbols_of("Only $299, “really”!")
    by_word = ["".join(symbol.character for symbol in symbols if symbol.word == word) for word in range(3)]
    assert by_word == ["ˈOnli", "tˈu hˈʌndɹəd nˈIndinˌIn dˈɑləɹz", "ɹˈiəli"]
    assert {symbol.character for symbol in symbols if symbol.word is None} == {" ", ",", "!"}


def test_breaks_and_unfinished_texts_have_a_comma() -> None:
    text = "I never said she stole it"
    said = pronounce(SpeechRequest(plain(text), breaks=(13,), unfinished=True)).symbols
    assert [symbol.word for symbol in said if symbol.character == ","] == [None, None]
    assert said[-1].character == ","
    comma = next(index for index, symbol in enumerate(said) if symbol.character == ",")
    assert (said[comma - 1].word, said[comma + 2].word) == (2, 3)
    assert sum(symbol.character == "," for symbol in pronounce(SpeechRequest(plain("Yes, now"), breaks=(5,))).symbols) == 1


def test_a_long_unknown_word_is_read_to_its_end() -> None:
    short, long = symbols_of("zqvlorpinatekudimaropelv"), symbols_of("zqvlorpinatekudimaropelv" * 4)
    assert len(long) > 3 * len(short)


def test_a_marked_word_has_a_stress() -> None:
    plain_symbols = symbols_of("It is in the box.")
    stressed = with_stress(plain_symbols, {2, 3})
    assert sum(symbol.character == "ˈ" and symbol.word == 3 for symbol in stressed) == 1
    assert [symbol for symbol in stressed if symbol.word not in (2, 3)] == [
        symbol for symbol in plain_symbols if symbol.word not in (2, 3)
    ]


def test_a_cut_that_lacks_an_input_is_an_error() -> None:
    graph = OnnxGraph(package.read_model())
    with pytest.raises(ValueError, match="nothing computes"):
        graph.cut({}, {"f0": TensorType(FLOAT, (1, "F"))})


@pytest.mark.parametrize("data", [b"", b"\x3a", b"\x3a\x05ab", b"\xff" * 20, b"\x0f"])
def test_data_that_is_no_model_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"graph|cut short|wire type"):
        OnnxGraph(data)


def test_the_cache_holds_what_the_package_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fresh = dictionaries._read_data(package.assets())
    (cache,) = (tmp_path / "prosody-speech").iterdir()
    assert dictionaries._read_data(package.assets()) == fresh
    table = dictionaries.PackedTables(fresh["weights"])
    name = next(iter(fresh["weights"]))
    assert table.get(name) == marshal.loads(fresh["weights"][name])
    assert table.get("no such feature") is None
    for damaged in (b"", b"abcd", cache.read_bytes()[:-1], cache.read_bytes() + b"x"):
        cache.write_bytes(damaged)
        assert dictionaries._read_data(package.assets()) == fresh
    cache.unlink()
    (tmp_path / "prosody-speech").rmdir()
    (tmp_path / "prosody-speech").write_text("a file where the folder should be")
    assert dictionaries._read_data(package.assets()) == fresh
