"""SSML (W3C Speech Synthesis Markup Language 1.0 and 1.1) to and from `MarkedText`.

    elements.py   element and attribute tables, pitch and contour values
    reader.py     `from_ssml`
    writer.py     `to_ssml`

`from_ssml` reads these elements, with or without SSML's namespace:

    <speak>             the root; xml:space="preserve" keeps white space as it is, otherwise it collapses to single spaces
    <p> <s>             a paragraph, a sentence: each ends a sentence for `segment.segment_sentences`
    <break>             strength none, x-weak: nothing; weak, medium or omitted: pause_short; strong, x-strong: pause_long.
                        With time, a pause of exactly that length; its kind follows the strength, else the nearest length
    <emphasis>          level strong, moderate or omitted: emph on every word inside; reduced, none: no emph inside
    <prosody>           pitch high, x-high, +10%, +2st: pitch_high on every word inside; low, x-low, -10%: pitch_low; +0%: no
                        change; medium, default: no pitch mark inside. contour: pitch_rising or pitch_falling on the last word
    <sub alias="...">   the alias is spoken, the text stays as written
    <say-as>            its text; its attributes are ignored

In nested elements, emphasis and relative changes of pitch accumulate, whereas a label such as "low" replaces the outer pitch. An
element applies to a word if it contains any part of the word's core. Comments and processing instructions are ignored. A DTD is
rejected, and with it every entity except XML's own five. The language is not kept; a document may use only one.
"""

from prosody_tagger.ssml.elements import NAMESPACE
from prosody_tagger.ssml.reader import MAX_DEPTH, from_ssml
from prosody_tagger.ssml.writer import to_ssml

__all__ = ["MAX_DEPTH", "NAMESPACE", "from_ssml", "to_ssml"]
