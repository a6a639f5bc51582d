"""SSML to and from marked text."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scaling import is_linear

from prosody_tagger.errors import MarkupError
from prosody_tagger.markup import KINDS, MAX_PAUSE_MS, PAUSES, Alias, Mark, MarkedText, normalise, parse, plain, render
from prosody_tagger.segment import segment_sentences, segment_words
from prosody_tagger.ssml import MAX_DEPTH, NAMESPACE, from_ssml, to_ssml


def speak(inside: str, attributes: str = "") -> MarkedText:
    return from_ssml(f"<speak{attributes}>{inside}</speak>")


def rendered(inside: str, attributes: str = "") -> str:
    """Return the result in the notation of `markup`."""
    return render(speak(inside, attributes))


# The document


@pytest.mark.parametrize(
    "source",
    [
        "<speak>Hi <emphasis>you</emphasis></speak>",
        f'<speak version="1.1" xmlns="{NAMESPACE}" xml:lang="en-US">Hi <emphasis>you</emphasis></speak>',
        f'<s:speak xmlns:s="{NAMESPACE}">Hi <s:emphasis>you</s:emphasis></s:speak>',
        '<?xml version="1.0"?>\n<speak>Hi <emphasis>you</emphasis></speak>\n',
        '<?xml version="1.0" encoding="ISO-8859-1"?><speak>Hi <emphasis>you</emphasis></speak>',
        '<?xml version="1.0" encoding="UTF-16"?><speak>Hi <emphasis>you</emphasis></speak>',
        '<?xml version="1.0" encoding="no-such"?><speak>Hi <emphasis>you</emphasis></speak>',
        "\ufeff<speak>Hi <emphasis>you</emphasis></speak>",
        "<speak><!-- a -->H<!-- b -->i <?c d?><emphasis>y<![CDATA[ou]]></emphasis></speak><!-- e -->",
        "<speak>&#72;i <emphasis>you</emphasis></speak>",
        f'<speak xmlns="{NAMESPACE}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="{NAMESPACE} x.xsd">'
        "Hi <emphasis>you</emphasis></speak>",
    ],
)
def test_documents_that_say_the_same(source: str) -> None:
    assert from_ssml(source) == MarkedText("Hi you", (Mark("emph", 3),))


def test_text_that_a_declared_encoding_could_not_carry() -> None:
    text = "日本 é 👩‍👩‍👧 שלום"
    assert from_ssml(f'<?xml version="1.0" encoding="ascii"?><speak>{text}</speak>') == plain(text)


def test_an_empty_document() -> None:
    assert from_ssml("<speak/>") == speak(" \n ") == speak("<p> <s/> </p>") == plain("")


def test_escapes_and_literal_marks() -> None:
    assert speak("a &lt;emph&gt; &amp; \\ &quot;&apos; ]] b").text == "a <emph> & \\ \"' ]] b"


def test_one_language_however_it_is_named() -> None:
    assert speak('<p xml:lang="EN">Hi.</p><s xml:lang="en-GB">You.</s>', ' xml:lang="en-US"').text == "Hi.\n\nYou."


# White space


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        ("  Hello \t\r\n  world ", "Hello world"),
        (" <say-as interpret-as='x'> Hello </say-as> <say-as>world</say-as>", "Hello world"),
        ("Hel<say-as>lo</say-as>world", "Helloworld"),
        ("a&#32;&#10;&#9;b&#13;", "a b"),
        ("a\u00a0\u2003b\u00a0", "a\u00a0\u2003b\u00a0"),
        ("a\n\nb", "a b"),
    ],
)
def test_white_space_becomes_single_spaces(inside: str, text: str) -> None:
    assert speak(inside).text == text
    assert speak(inside, ' xml:space="default"').text == text


def test_white_space_that_is_preserved() -> None:
    assert speak(" \n a  \t b&#13; \r\n", ' xml:space="preserve"').text == " \n a  \t b\r \n"
    assert rendered("a<break/>  <emphasis> b </emphasis>", ' xml:space="preserve"') == "a<pause_short>   <emph>b "


def test_text_longer_than_the_parser_buffer() -> None:
    text = "one two  \n" * 20_000
    assert speak(text).text == " ".join(text.split())
    assert speak(text, ' xml:space="preserve"').text == text


# Paragraphs and sentences


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        ("<p>Hello.</p><p>World.</p>", "Hello.\n\nWorld."),
        ("<p>Hello</p>world", "Hello\n\nworld"),
        ("Hello <p> world </p>", "Hello\n\nworld"),
        ("<s>Hello.</s><s>World.</s>", "Hello. World."),
        ("<s>Hello.</s> \n <s>World.</s>", "Hello. World."),
        ("<s>Hello</s><s>World</s>", "Hello\n\nWorld"),
        ("<s>Hello.</s><s>world</s>", "Hello.\n\nworld"),
        ("<s>Ask Mr.</s><s>Smith</s>", "Ask Mr.\n\nSmith"),
        ("<s>He said “no.”</s><s>“Yes.”</s>", "He said “no.” “Yes.”"),
        ("<s>你好。</s><s>世界</s>", "你好。 世界"),
        ("<p><s>One.</s><s>Two.</s></p><p><s>Three.</s></p>", "One. Two.\n\nThree."),
        ("<p/>Hello<p/><s/><p></p>there", "Hello\n\nthere"),
        ("<s>One.</s>Two", "One. Two"),
        ("<s>One.</s>\u00a0<s>Two.</s>", "One.\n\n\u00a0 Two."),
        ("<p>One.</p>\u00a0two", "One.\n\n\u00a0two"),
    ],
)
def test_parts_end_sentences(inside: str, text: str) -> None:
    assert speak(inside).text == text


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        (" <p> Hello</p> <p> world</p>", "  Hello\n\n  world"),
        ("<p>Hello. </p><p>World</p>", "Hello. World"),
        ("<s>Hello.</s><s>World</s>", "Hello.\n\nWorld"),
        ("<s>Hello.</s> <s> </s> <s>World</s>", "Hello.   World"),
        ("<p>Hello</p>\n\n<p>World</p>", "Hello\n\nWorld"),
    ],
)
def test_parts_end_sentences_where_white_space_is_preserved(inside: str, text: str) -> None:
    assert speak(inside, ' xml:space="preserve"').text == text


PIECES = st.sampled_from(
    ["Hello", "Hello.", "hello", "Mr.", "e.g.", "“", "'", "no.", "No", "5.", "...", "—", "好。", "J.", "?!", "\u00a0", "a b"]
)


@given(
    st.lists(
        st.tuples(st.sampled_from(["p", "s"]), st.lists(PIECES, min_size=1, max_size=3).map(" ".join)), min_size=1, max_size=6
    ),
    st.booleans(),
)
def test_every_part_is_a_sentence_or_more(parts: list[tuple[str, str]], preserve: bool) -> None:
    assume(all(piece.strip() for _, piece in parts))
    source = "".join(f"<{name}><emphasis level='none'>{piece}a</emphasis></{name}>" for name, piece in parts)
    text = speak(source, ' xml:space="preserve"' if preserve else "").text
    starts = {start for start, _ in segment_sentences(text)}
    position = 0
    for _, piece in parts:
        position = text.index(piece + "a", position)
        assert len(piece) - len(piece.lstrip()) + position in starts or position in starts
        position += len(piece) + 1
    assert text.split() == " ".join(piece + "a" for _, piece in parts).split()


def test_marks_and_aliases_keep_their_words_when_parts_are_separated() -> None:
    inside = '<s>One</s><s><break/><emphasis>two</emphasis></s><s><sub alias="3">three</sub></s><s><sub alias="4">four</sub></s>'
    for attributes in ("", ' xml:space="preserve"'):
        marked = speak(inside, attributes)
        assert marked.text == "One\n\ntwo\n\nthree\n\nfour"
        assert marked.marks == (Mark("pause_short", 5), Mark("emph", 5))
        assert marked.aliases == (Alias(10, 15, "3"), Alias(17, 21, "4"))


# Breaks


@pytest.mark.parametrize(
    ("attributes", "mark"),
    [
        ("", "<pause_short>"),
        ('strength="none"', ""),
        ('strength="x-weak"', ""),
        ('strength="weak"', "<pause_short>"),
        ('strength="medium"', "<pause_short>"),
        ('strength="strong"', "<pause_long>"),
        ('strength="x-strong"', "<pause_long>"),
        ('time="500ms"', "<pause_long:500ms>"),
        ('time="1.5s"', "<pause_long:1500ms>"),
        ('time="+.1s"', "<pause_short:100ms>"),
        ('time="0s"', "<pause_short:0ms>"),
        ('time="0.4ms"', "<pause_short:0ms>"),
        ('time="60s"', "<pause_long:60000ms>"),
        ('time="475ms"', "<pause_short:475ms>"),
        ('time="476ms"', "<pause_long:476ms>"),
        ('time="2s" strength="weak"', "<pause_short:2000ms>"),
        ('time="10ms" strength="x-strong"', "<pause_long:10ms>"),
        ('time="1s" strength="none"', "<pause_long:1000ms>"),
    ],
)
def test_breaks(attributes: str, mark: str) -> None:
    assert rendered(f"a <break {attributes}/> b") == f"a {mark}b"


@pytest.mark.parametrize(
    ("inside", "marked"),
    [
        ("<break/>a", "<pause_short>a"),
        (" <break/> a", "<pause_short>a"),
        ("a<break/>", "a<pause_short>"),
        ("a <break/> ", "a<pause_short>"),
        ("a<break/> b", "a <pause_short>b"),
        ("a <break/>b", "a <pause_short>b"),
        ("a <break/> <break strength='strong'/> b", "a <pause_short><pause_long>b"),
        ("a<break/>b", "a<pause_short>b"),
        ("<break/>", "<pause_short>"),
        ("<break/> <break/>", "<pause_short><pause_short>"),
        ("<p>a<break/></p><p><break/>b</p>", "a\n\n<pause_short><pause_short>b"),
        ("a “<break/>b”", "a “<pause_short>b”"),
    ],
)
def test_where_breaks_stand(inside: str, marked: str) -> None:
    assert rendered(inside) == marked


# Emphasis and pitch


@pytest.mark.parametrize(
    ("inside", "marked"),
    [
        ("<emphasis>a</emphasis> b", "<emph>a b"),
        ("<emphasis level='strong'>a b</emphasis>", "<emph>a <emph>b"),
        ("<emphasis level='moderate'> a b </emphasis> c", "<emph>a <emph>b c"),
        ("<emphasis level='none'>a</emphasis>", "a"),
        ("<emphasis level='reduced'>a</emphasis>", "a"),
        ("so <emphasis>“only</emphasis> you” <emphasis>said!</emphasis>", "so <emph>“only you” <emph>said!"),
        ("“<emphasis>only</emphasis>”", "<emph>“only”"),
        ("un<emphasis>believ</emphasis>able", "<emph>unbelievable"),
        ("<emphasis>on</emphasis>-<emphasis>ly</emphasis>", "<emph>on-ly"),
        ("<emphasis>a <break/> b</emphasis>", "<emph>a <pause_short><emph>b"),
        ("<break/><emphasis><break/>a</emphasis>", "<pause_short><pause_short><emph>a"),
        ("<emphasis>a <emphasis>b</emphasis></emphasis>", "<emph>a <emph>b"),
        ("<emphasis>a <emphasis level='none'>b</emphasis> c</emphasis>", "<emph>a b <emph>c"),
        ("<emphasis>a—b 你好</emphasis>", "<emph>a—<emph>b <emph>你<emph>好"),
        ("<emphasis><p>One.</p><p>Two</p></emphasis>", "<emph>One.\n\n<emph>Two"),
        ("<say-as interpret-as='cardinal' format='x' detail='y'>12 <emphasis>34</emphasis></say-as>", "12 <emph>34"),
        ("<prosody pitch='high'>a b</prosody>", "<pitch_high>a <pitch_high>b"),
        ("<prosody pitch='x-high'>a</prosody>", "<pitch_high>a"),
        ("<prosody pitch='+5%'>a</prosody>", "<pitch_high>a"),
        ("<prosody pitch='+1.5st'>a</prosody>", "<pitch_high>a"),
        ("<prosody pitch='+20Hz'>a</prosody>", "<pitch_high>a"),
        ("<prosody pitch='low'>a</prosody>", "<pitch_low>a"),
        ("<prosody pitch='x-low'>a</prosody>", "<pitch_low>a"),
        ("<prosody pitch='-.5st'>a</prosody>", "<pitch_low>a"),
        ("<prosody pitch='-10%'>a</prosody>", "<pitch_low>a"),
        ("<prosody pitch='medium'>a</prosody>", "a"),
        ("<prosody pitch='default'>a</prosody>", "a"),
        ("<prosody pitch='+0%'>a</prosody>", "a"),
        ("<prosody pitch='-0.0st'>a</prosody>", "a"),
        ("<prosody pitch='high'>a <prosody pitch='low'>b</prosody> c</prosody>", "<pitch_high>a <pitch_low>b <pitch_high>c"),
        ("<prosody pitch='high'>a <prosody pitch='default'>b</prosody></prosody>", "<pitch_high>a b"),
        ("<prosody pitch='high'>a <prosody pitch='-5%'>b</prosody></prosody>", "<pitch_high>a <pitch_high><pitch_low>b"),
        ("<prosody pitch='high'><prosody pitch='+0st'>b</prosody></prosody>", "<pitch_high>b"),
        ("<prosody pitch='low'><emphasis>a</emphasis></prosody>", "<emph><pitch_low>a"),
        ("<prosody contour='(0%,+0%) (100%,+20%)'>is it you?</prosody>", "is it <pitch_rising>you?"),
        ("<prosody contour='(0%,+20Hz)(50%,+20Hz)( 60.5% , -5Hz )'>it is ... </prosody>", "it <pitch_falling>is ..."),
        ("<prosody contour='(0%,100Hz) (100%,150Hz)'>a</prosody>", "<pitch_rising>a"),
        ("<prosody contour='(0%,high) (100%,x-low)'>a</prosody>", "<pitch_falling>a"),
        ("<prosody pitch='low' contour='(0%,-1st) (9%,+1st)'>a b</prosody>", "<pitch_low>a <pitch_low><pitch_rising>b"),
    ],
)
def test_emphasis_and_pitch(inside: str, marked: str) -> None:
    assert rendered(inside) == marked


# Aliases


def test_an_alias_stands_beside_its_text() -> None:
    marked = speak('The <sub alias="World  Wide &lt;Web&gt;"> W3C </sub>’s <emphasis><sub alias="and">&amp;</sub></emphasis>')
    assert marked == MarkedText("The W3C ’s &", (Mark("emph", 11),), (Alias(4, 7, "World  Wide <Web>"), Alias(11, 12, "and")))
    assert marked.text[4:7] == "W3C"


def test_marks_within_an_alias() -> None:
    marked = speak('<sub alias="doctor smith">Dr. <break time="9ms"/><emphasis>Smith</emphasis></sub>')
    assert marked == MarkedText("Dr. Smith", (Mark("pause_short", 4, 9), Mark("emph", 4)), (Alias(0, 9, "doctor smith"),))


def test_an_empty_alias() -> None:
    assert speak('a <sub alias="">(sic)</sub>').aliases == (Alias(2, 7, ""),)


# Errors


BOMB = '<!DOCTYPE speak [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><speak>&b;</speak>'


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("", ["no element found", "line 1, column 1", "<speak>"]),
        ("Hello", ["syntax error", "line 1, column 1", "<speak>"]),
        ("<speak>", ["no element found", "line 1, column 8"]),
        ("<speak>\n a & b</speak>", ["invalid token", "line 2, column 5", "&amp;"]),
        ("<speak>\x00</speak>", ["invalid token", "line 1, column 8", "control"]),
        ("<speak>&#0;</speak>", ["line 1, column 8"]),
        ("<speak>\ud800</speak>", ["lone surrogate U+D800", "line 1, column 8"]),
        ("<speak>é<s>\n</p></speak>", ["mismatched tag", "line 2, column 3", "close each element"]),
        ("<speak>a&nbsp;b</speak>", ["undefined entity", "line 1, column 9", "&#160;"]),
        ("<speak>a</speak><speak/>", ["junk after document element", "line 1, column 17"]),
        ("<speak><x:s/></speak>", ["unbound prefix", "line 1, column 8"]),
        ("<speak a='1' a='2'/>", ["duplicate attribute", "line 1"]),
        (BOMB, ["DTD", "speak", "line 1"]),
        ('\n<!DOCTYPE speak SYSTEM "file:///etc/passwd"><speak/>', ["DTD", "line 2", "remove it"]),
        ("<voice>a</voice>", ["unknown element <voice>", "line 1, column 1"]),
        ("<s>a</s>", ["the document is a <s>", "line 1, column 1", "<speak>"]),
        ("<speak>\n 日本 <emphsis>a</emphsis></speak>", ["<emphsis>", "line 2, column 5", "did you mean <emphasis>?"]),
        ("<speak><Break/></speak>", ["<Break>", "did you mean <break>?"]),
        ("<speak xmlns='urn:x'>a</speak>", ["<{urn:x}speak>", "line 1, column 1", "<speak>"]),
        ("<speak xmlns:m='urn:m'><m:say-as>a</m:say-as></speak>", ["<m:say-as>", "line 1, column 24", "did you mean <say-as>?"]),
        ("<speak>" + "<" + "q" * 9000 + "/></speak>", ["<" + "q" * 40 + "…>"]),
        ("<speak><p speed='1'>a</p></speak>", ['<p> cannot take speed="1"', "column 8", "xml:lang"]),
        ("<speak><p xml:space='preserve'>a</p></speak>", ["<p> cannot take xml:space"]),
        ("<speak><break tme='1s'/></speak>", ['<break> cannot take tme="1s"', "did you mean time?", "column 8"]),
        ("<speak xml:space='keep'/>", ['xml:space="keep"', "line 1, column 1", "default, preserve"]),
        ("<speak xml:lang='en'><s xml:lang='fr'>a</s></speak>", ['from "en" to "fr"', "line 1, column 22", "separate text"]),
        ("<speak><prosody rate='slow'>a</prosody></speak>", ['rate="slow"', "column 8", "set the speed for the whole text"]),
        ("<speak><prosody pitch='low' duration='1s'>a</prosody></speak>", ["duration", "set the speed for the whole text"]),
        ("<speak><prosody volume='loud'>a</prosody></speak>", ["volume", "leave it out"]),
        ("<speak><prosody range='low'>a</prosody></speak>", ["range", "leave it out"]),
        ("<speak><prosody ptch='low'>a</prosody></speak>", ["ptch", "did you mean pitch?"]),
        ("<speak><prosody>a</prosody></speak>", ["has no effect", "column 8", "pitch"]),
        ("<speak><prosody pitch='hgh'>a</prosody></speak>", ['pitch="hgh"', "column 8", "did you mean high?"]),
        ("<speak><prosody pitch='200Hz'>a</prosody></speak>", ['pitch="200Hz"', "+10%"]),
        ("<speak><prosody pitch='10%'>a</prosody></speak>", ['pitch="10%"', "+10%"]),
        ("<speak><prosody pitch='+1e3%'>a</prosody></speak>", ['pitch="+1e3%"']),
        ("<speak><prosody pitch=''>a</prosody></speak>", ['pitch=""']),
        (
            "<speak><prosody contour='(0%,+0%) (50%,+9%) (100%,+1%)'>a</prosody></speak>",
            ["contour=", "neither rises nor falls", "column 8"],
        ),
        ("<speak><prosody contour='(0%,+0%) (100%,+0%)'>a</prosody></speak>", ["neither rises nor falls"]),
        ("<speak><prosody contour='(0%,+0%) (100%,+2st)'>a</prosody></speak>", ["neither rises nor falls"]),
        ("<speak><prosody contour='(50%,+0%) (0%,+2%)'>a</prosody></speak>", ["neither rises nor falls"]),
        ("<speak><prosody contour='(5%,+0%) (5%,+2%)'>a</prosody></speak>", ["neither rises nor falls"]),
        ("<speak><prosody contour='(0%,+5%)'>a</prosody></speak>", ["neither rises nor falls"]),
        ("<speak><prosody contour='(0%,up) (9%,down)'>a</prosody></speak>", ["neither rises nor falls"]),
        ("<speak><prosody contour=''>a</prosody></speak>", ["neither rises nor falls"]),
        ("<speak><prosody contour='rising'>a</prosody></speak>", ["neither rises nor falls"]),
        ("<speak><emphasis level='storng'>a</emphasis></speak>", ['level="storng"', "column 8", "did you mean strong?"]),
        ("<speak><emphasis level=''>a</emphasis></speak>", ['level=""', "the values are strong, moderate, reduced, none"]),
        ("<speak>a\n<emphasis/></speak>", ["<emphasis> at line 2, column 1 has no word"]),
        ("<speak>a<emphasis>!</emphasis></speak>", ["<emphasis> at line 1, column 9 has no word"]),
        ("<speak>a<emphasis> </emphasis>b</speak>", ["has no word"]),
        ("<speak>a<emphasis level='none'/></speak>", ["has no word"]),
        ("<speak>a <prosody pitch='high'>...<break/></prosody> b</speak>", ["<prosody> at line 1, column 10 has no word"]),
        ("<speak><break strength='strng'/></speak>", ['strength="strng"', "did you mean strong?", "column 8"]),
        ("<speak><break time='1,5s'/></speak>", ['time="1,5s"', 'time="500ms"', "column 8"]),
        ("<speak><break time='5'/></speak>", ['time="5"']),
        ("<speak><break time='-5ms'/></speak>", ['time="-5ms"']),
        ("<speak><break time='٣s'/></speak>", ['time="٣s"']),
        ("<speak>\n<break time='61s'/></speak>", ["61000 ms", "60000 ms", "line 2, column 1"]),
        ("<speak><break time='" + "9" * 5000 + "s'/></speak>", ["cannot read time=", "…"]),
        ("<speak><break>a</break></speak>", ["<break> at line 1, column 8 holds text"]),
        ("<speak><break><break/></break></speak>", ["<break> at line 1, column 8 holds <break>"]),
        ("<speak>a <sub>b</sub></speak>", ["<sub> has no alias", "column 10"]),
        ("<speak>a <sub alias='b'> </sub></speak>", ["<sub> at line 1, column 10 has no text"]),
        (
            "<speak><sub alias='a'><sub alias='b'>c</sub></sub></speak>",
            ["<sub> is within <sub> (line 1, column 8)", "column 23"],
        ),
        ("<speak><speak/></speak>", ["<speak> is within <speak>", "line 1, column 8"]),
        ("<speak><p>a<p>b</p></p></speak>", ["<p> is within <p>"]),
        ("<speak><s>a<p>b</p></s></speak>", ["<p> is within <s>"]),
        ("<speak><s>a<s>b</s></s></speak>", ["<s> is within <s>"]),
    ],
)
def test_errors(source: str, parts: list[str]) -> None:
    with pytest.raises(MarkupError) as caught:
        from_ssml(source)
    message = str(caught.value)
    for part in (*parts, "line ", "column "):
        assert part in message
    assert len(message) < 400


def test_the_deepest_nesting() -> None:
    def nested(depth: int) -> str:
        return "<say-as>" * (depth - 1) + "a" + "</say-as>" * (depth - 1)

    assert speak(nested(MAX_DEPTH)).text == "a"
    with pytest.raises(MarkupError, match=f"deeper than {MAX_DEPTH} elements at line 1, column {8 + 8 * (MAX_DEPTH - 1)}"):
        speak(nested(MAX_DEPTH + 1))


def test_an_entity_bomb_is_rejected() -> None:
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(20))
    with pytest.raises(MarkupError, match="DTD"):
        from_ssml(f"<!DOCTYPE speak [{entities}]><speak>&a20;</speak>")


# Writing


def test_written_ssml() -> None:
    marked = MarkedText(
        'Its "only" W3C & <b>\r',
        (Mark("pause_short", 0), Mark("emph", 4), Mark("pitch_rising", 4), Mark("pause_long", 11, 1200), Mark("pause_long", 21)),
        (Alias(11, 14, 'a "b"\n'),),
    )
    assert to_ssml(marked) == (
        '<speak version="1.1" xmlns="http://www.w3.org/2001/10/synthesis" xml:space="preserve">'
        '<break strength="medium"/>Its "<emphasis level="strong"><prosody contour="(0%,+0%) (100%,+20%)">only</prosody></emphasis>"'
        ' <break time="1200ms"/><sub alias="a &quot;b&quot;&#10;">W3C</sub> &amp; &lt;b&gt;&#13;<break strength="strong"/></speak>'
    )


@pytest.mark.parametrize(
    ("mark", "tag"),
    [
        (Mark("pause_short", 0), '<break strength="medium"/>'),
        (Mark("pause_long", 0), '<break strength="strong"/>'),
        (Mark("pause_short", 0, 250), '<break time="250ms"/>'),
        (Mark("pause_long", 0, 700), '<break time="700ms"/>'),
        (Mark("pause_short", 0, 700), '<break strength="medium" time="700ms"/>'),
        (Mark("pause_long", 0, 0), '<break strength="strong" time="0ms"/>'),
    ],
)
def test_how_pauses_are_written(mark: Mark, tag: str) -> None:
    marked = MarkedText("", (mark,))
    assert tag in to_ssml(marked)
    assert from_ssml(to_ssml(marked)) == marked


NASTY = [
    "<emph>", "&", "&amp;", "]]>", '"', "'", "<", ">", "\\", " ", "  ", "\n", "\r\n", "\r", "\t", "\x7f", "\x85",
    "\u2028", "e\u0301", "\u0301", "שלום", "مرحبا", "\u202e", "👩‍👩‍👧", "你好。", "ครับ", "word", "Mr. ", "—",
    "$299", "\ufeff", "\ufffd", "\U0001ffff", "…",
]  # fmt: skip
TEXTS = st.lists(
    st.sampled_from(NASTY) | st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=12
).map("".join)


@st.composite
def marked_texts(draw: st.DrawFn) -> MarkedText:
    text = draw(TEXTS)
    offsets = st.integers(0, len(text))
    pauses = st.builds(Mark, st.sampled_from(PAUSES), offsets, st.none() | st.integers(0, 1000) | st.integers(0, MAX_PAUSE_MS))
    starts = [word.start for word in segment_words(text)]
    others = (
        st.builds(Mark, st.sampled_from([kind for kind in KINDS if kind not in PAUSES]), st.sampled_from(starts))
        if starts
        else pauses
    )
    borders = sorted(draw(st.sets(offsets, max_size=6)))
    aliases = tuple(Alias(start, end, draw(TEXTS)) for start, end in zip(borders[::2], borders[1::2], strict=False))
    return MarkedText(text, tuple(draw(st.lists(pauses | others, max_size=6))), aliases)


@given(marked_texts())
def test_tagger_output_round_trips(marked: MarkedText) -> None:
    normal = normalise(marked)
    assert from_ssml(to_ssml(normal)) == normal


@given(marked_texts())
def test_other_marks_round_trip_in_normal_form(marked: MarkedText) -> None:
    back = from_ssml(to_ssml(marked))
    assert (back.text, back.aliases) == (marked.text, marked.aliases)
    assert [mark for mark in back.marks if mark.is_pause] == [mark for mark in marked.marks if mark.is_pause]
    assert {mark for mark in back.marks if not mark.is_pause} == {mark for mark in marked.marks if not mark.is_pause}
    assert from_ssml(to_ssml(back)) == back


@given(marked_texts())
def test_another_reader_finds_the_same_text(marked: MarkedText) -> None:
    root = ElementTree.fromstring(to_ssml(marked))
    assert "".join(root.itertext()) == marked.text
    assert [sub.get("alias") for sub in root.iter(f"{{{NAMESPACE}}}sub")] == [alias.spoken for alias in marked.aliases]


def test_marks_within_a_word_move_to_its_start() -> None:
    assert (
        render(from_ssml(to_ssml(parse("on<emph>ly <emph><emph>'you' <emph><pause_short>x"))))
        == "<emph>only <emph>'you' <pause_short><emph>x"
    )


@pytest.mark.parametrize(
    ("alias", "written"),
    [
        (Alias(1, 4, "z"), '<emphasis level="strong"><sub alias="z">abc</sub></emphasis>" d'),
        (Alias(0, 7, "z"), '<sub alias="z">"<emphasis level="strong">abc</emphasis>" d</sub>'),
        (Alias(2, 7, "z"), '<emphasis level="strong">a</emphasis><sub alias="z">bc" d</sub>'),
        (Alias(0, 2, "z"), '<sub alias="z">"<emphasis level="strong">a</emphasis></sub>bc" d'),
        (Alias(2, 3, "z"), '<emphasis level="strong">a</emphasis><sub alias="z">b</sub>c" d'),
    ],
)
def test_elements_never_cross(alias: Alias, written: str) -> None:
    marked = MarkedText('"abc" d', (Mark("emph", 0),), (alias,))
    assert written in to_ssml(marked)
    assert from_ssml(to_ssml(marked)) == marked


def test_a_word_with_every_mark() -> None:
    marked = normalise(MarkedText("I", tuple(Mark(kind, 0) for kind in KINDS)))
    assert len(marked.marks) == len(KINDS)
    assert from_ssml(to_ssml(marked)) == marked


def test_every_xml_character_round_trips() -> None:
    carried = [chr(code) for code in (9, 10, 13, *range(32, 0xD800), *range(0xE000, 0xFFFE), *range(0x10000, 0x110000, 97))]
    text = "".join(carried)
    assert from_ssml(to_ssml(MarkedText(text, (), (Alias(0, 1, text),)))) == MarkedText(text, (), (Alias(0, 1, text),))


@pytest.mark.parametrize("character", [chr(code) for code in range(32) if code not in (9, 10, 13)] + ["\ufffe", "\uffff"])
def test_characters_that_xml_cannot_carry(character: str) -> None:
    name = re.escape(f"U+{ord(character):04X} at line 2, column 2")
    with pytest.raises(MarkupError, match=f"the text holds {name}"):
        to_ssml(plain(f"a\nb{character}c"))
    with pytest.raises(MarkupError, match=f"the alias for 0 to 1 of the text holds {name}"):
        to_ssml(MarkedText("a", (), (Alias(0, 1, f"a\nb{character}c"),)))


def test_an_alias_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(MarkupError, match=r"U\+DC00"):
        to_ssml(MarkedText("a", (), (Alias(0, 1, "\udc00"),)))


@pytest.mark.parametrize("aliases", [[(1, 1)], [(2, 1)], [(0, 4)], [(-1, 2)], [(0, 2), (1, 3)]])
def test_aliases_that_cannot_be_written(aliases: list[tuple[int, int]]) -> None:
    with pytest.raises(MarkupError, match="is empty, overlaps another or lies outside"):
        to_ssml(MarkedText("abc", (), tuple(Alias(start, end, "z") for start, end in aliases)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in PAUSES])
def test_marks_without_a_word_cannot_be_written(kind: str) -> None:
    with pytest.raises(MarkupError, match=f"<{kind}> at offset 2 has no word after it"):
        to_ssml(MarkedText("a !", (Mark(kind, 2),)))


# Hostile documents


@pytest.mark.parametrize("attributes", ["", ' xml:space="preserve"'])
@pytest.mark.parametrize(
    "unit",
    [
        "<break/>", "<emphasis>a</emphasis> ", "<s>a</s>", "<p>A.</p>", "a\n", "&amp;", "<p/>", "\n ",
        '<sub alias="q">a</sub> ', '<prosody contour="(0%,+0%)(1%,+1%)">a</prosody>', "!", '"', "&lt;a", "<!---->",
    ],
)  # fmt: skip
def test_hostile_documents_take_linear_time(unit: str, attributes: str) -> None:
    def document(size: int) -> str:
        return f"<speak{attributes}>{unit * (size // len(unit))}</speak>"

    assert is_linear(from_ssml, document(20_000), document(80_000))


@pytest.mark.parametrize("within", ["<emphasis>{}</emphasis>", '<prosody pitch="+1%">{}</prosody>'])
def test_depth_does_not_multiply_the_work(within: str) -> None:
    text = "a " * 10_000
    deep = text
    for _ in range(MAX_DEPTH - 1):
        deep = within.format(deep)
    assert is_linear(speak, within.format(text), deep)


@pytest.mark.parametrize("text", ["!" * 1_000_000, "<a" * 500_000, "\n " * 500_000, '"' * 1_000_000])
def test_a_hostile_megabyte_round_trips(text: str) -> None:
    assert from_ssml(to_ssml(plain(text))) == plain(text)


def test_writing_takes_linear_time() -> None:
    def work(text: str) -> str:
        marked = parse(text)
        aliases = (Alias(word.core_start, word.core_end, "b") for word in segment_words(marked.text))
        return to_ssml(MarkedText(marked.text, marked.marks, tuple(aliases)))

    unit = "<emph><pitch_high><pause_short>a "
    assert is_linear(work, unit * 1_000, unit * 4_000)
