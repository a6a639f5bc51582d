# ruff: noqa: E501 (a text and its spoken form stand in one line)
"""Spoken forms: one for each word, and no text raises an error, loses a word or takes more than linear time."""

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scaling import is_linear

from prosody_tagger.markup import Alias, MarkedText, parse, plain
from prosody_tagger.segment import segment_words
from synth.normalisation import spoken_words


def said(text: str, language: str = "en-us") -> str:
    """Return the spoken form of each word, separated by " | "."""
    return " | ".join(spoken_word.spoken for spoken_word in spoken_words(plain(text), language))


def check(table: str, language: str = "en-us") -> None:
    """Check a table: each line is a text, "⇒", and its spoken form."""
    wrong = []
    for line in filter(None, map(str.strip, table.splitlines())):
        text, _, expected = line.partition(" ⇒ ")
        if (found := said(text, language)) != expected:
            wrong.append(f"{text!r}: {found!r}, not {expected!r}")
    assert not wrong, "\n".join(wrong)


# English, rule by rule

ENGLISH = {
    "whole numbers": """
        0 ⇒ zero
        101 ⇒ one hundred one
        1,234,567 ⇒ one million two hundred thirty-four thousand five hundred sixty-seven
        1000000 ⇒ one million
        1,00,000 ⇒ one hundred thousand
        I have 2 dogs. ⇒ I | have | two | dogs.
        -5 −5 –5 (-5) ⇒ minus five | minus five | minus five | (minus five)
        007 00 ⇒ zero zero seven | zero zero
        123456789012 ⇒ one hundred twenty-three billion four hundred fifty-six million seven hundred eighty-nine thousand twelve
        1234567890123 ⇒ one two three four five six seven eight nine zero one two three
        1,2,3 ⇒ one, two, three
        1,234,5678 ⇒ one, two hundred thirty-four, five thousand six hundred seventy-eight
    """,
    "decimals": """
        3.14 0.5 .5 2.50 ⇒ three point one four | zero point five | point five | two point five zero
        1,234.5 ⇒ one thousand two hundred thirty-four point five
        -0.5 ⇒ minus zero point five
        6.02e23 1e-5 ⇒ six point zero two times ten to the power of twenty-three | one times ten to the power of minus five
    """,
    "ordinals": """
        1st 2nd 3rd 11th 21st 100th ⇒ first | second | third | eleventh | twenty-first | one hundredth
        1,000th 22ND ⇒ one thousandth | twenty-second
        1st-3rd ⇒ first to third
    """,
    "outer punctuation": """
        "$299, (2nd) [3] 5! 6? '7' 8; 9: 10… ⇒ "two hundred ninety-nine dollars, | (second) | [three] | five! | six? | 'seven' | eight; | nine: | ten…
        «5» ¿5? 5... 5😀 ⇒ «five» | ¿five? | five... | five 😀
    """,
    "money": """
        $299 $1 $0 $5.50 $0.99 $1.01 ⇒ two hundred ninety-nine dollars | one dollar | zero dollars | five dollars and fifty cents | ninety-nine cents | one dollar and one cent
        $.50 $5.00 $5.5 $12.345 ⇒ fifty cents | five dollars | five point five dollars | twelve point three four five dollars
        $1,299.99. ⇒ one thousand two hundred ninety-nine dollars and ninety-nine cents.
        €5 £1 £2.50 £0.01 ¥500 ₹100 ⇒ five euros | one pound | two pounds and fifty pence | one penny | five hundred yen | one hundred rupees
        5€ 5 € 5.50€ 50¢ ⇒ five euros | five | euros | five euros and fifty cents | fifty cents
        -$5 −$5 ~$5 <$5 ⇒ minus five dollars | minus five dollars | about five dollars | less than five dollars
        $5 million, ⇒ five | million dollars,
        $1.5 million €1.2 billion $5 bn ⇒ one point five | million dollars | one point two | billion euros | five | billion dollars
        $3k $2M $1.2bn $4.5T £3m ⇒ three thousand dollars | two million dollars | one point two billion dollars | four point five trillion dollars | three million pounds
        $5-10 $5–10 $5–$10 $5-$10 ⇒ five to ten dollars | five to | ten dollars | five to | ten dollars | five to ten dollars
        $5-10 million $1.5M–$2M ⇒ five to ten | million dollars | one point five million to | two million dollars
        $0.50-$1.50 $5 - $10 ⇒ fifty cents to one dollar and fifty cents | five dollars to | ten dollars
        $5/month £3.99/mo. $1 million/year ⇒ five dollars per month | three pounds and ninety-nine pence per month. | one | million dollars per year
        a $5 bill, a $5 million grant ⇒ a | five dollar | bill, | a | five | million dollar | grant
        a $5 or $10-a-day plan ⇒ a | five dollars | or | ten dollar-a-day | plan
        US$5 A$10 HK$3.50 ⇒ five U S dollars | ten Australian dollars | three Hong Kong dollars and fifty cents
        $100+ the $ sign ⇒ one hundred dollars plus | the | dollar | sign
    """,
    "scales": """
        10K 5k 5M 1.5M 3bn 7B ⇒ ten thousand | five thousand | five million | one point five million | three billion | seven billion
        5 million people, 2.5 million km ⇒ five | million | people, | two point five | million | kilometers
        4K 401(k) 5G ⇒ four K | four oh one k | five G
    """,
    "per cent": """
        30% 0.5% -5% 5 % 100%. ⇒ thirty percent | zero point five percent | minus five percent | five | percent | one hundred percent.
        5–10% 5-10% 12%-15% 5‰ ⇒ five to | ten percent | five to ten percent | twelve percent to fifteen percent | five per mille
        "30% savings" ⇒ "thirty percent | savings"
        50%+ ⇒ fifty percent plus
    """,
    "fractions": """
        1/2 3/4 2/3 1/4 5/8 3/2 ⇒ one half | three quarters | two thirds | one quarter | five eighths | three halves
        ½ ¼ ¾ ⅓ ⅞ 2½ 1¼ 3¾ ⇒ one half | one quarter | three quarters | one third | seven eighths | two and a half | one and a quarter | three and three quarters
        2 1/2 cups, 1 ½ ⇒ two | and a half | cups, | one | and a half
        7/10 3/10 of it, 10/10 ⇒ seven out of ten | three tenths | of | it, | ten out of ten
        22/7 ⇒ twenty-two over seven
        ½ lb 1/2 mile 1½ km ⇒ one half | pound | one half | mile | one and a half | kilometers
    """,
    "dates": """
        May 5, 2026 ⇒ May | fifth, | twenty twenty-six
        May 5th, 2026 and May 2026 ⇒ May | fifth, | twenty twenty-six | and | May | twenty twenty-six
        5 May 2026 on 5th May ⇒ the fifth of | May | twenty twenty-six | on | the fifth of | May
        the 5th of May, the 5 May ⇒ the | fifth | of | May, | the | fifth of | May
        Nov. 3rd, Nov 3, 3 Nov. 2026 Sept. 11 ⇒ November | third, | November | third, | the third of | November | twenty twenty-six | September | eleventh
        May 5–7, May 5-7 5–7 May ⇒ May | fifth to | seventh, | May | fifth to seventh | the fifth to | seventh of | May
        3/14/2026 3/14/26 14/3/2026 ⇒ March fourteenth twenty twenty-six | March fourteenth twenty twenty-six | March fourteenth twenty twenty-six
        2026-11-21 21.11.2026 05-Nov-2026 ⇒ November twenty-first twenty twenty-six | November twenty-first twenty twenty-six | November fifth twenty twenty-six
        3/14 on 3/4 by 12/25 ⇒ March fourteenth | on | March fourth | by | December twenty-fifth
        Mon. Nov. 3 Fri, 5 June Tues., Nov. 3rd ⇒ Monday | November | third | Friday, | the fifth of | June | Tuesday, | November | third
        Mon–Fri Mon-Fri Jan.–Mar. ⇒ Monday to | Friday | Monday to Friday | January to | March.
        in Nov. 2026; by 5 Nov. ⇒ in | November | twenty twenty-six; | by | the fifth of | November.
        You may 5 times ⇒ You | may | five | times
        2026-13-45 ⇒ two zero two six one three four five
        MAY 5 JAN 5 ⇒ MAY | fifth | January | fifth
        March 10 km ⇒ March | ten | kilometers
    """,
    "years": """
        in 1999 since 2005 by 2030 of 1984 ⇒ in | nineteen ninety-nine | since | two thousand five | by | twenty thirty | of | nineteen eighty-four
        In 1905, until 2010 from 1800 ⇒ In | nineteen oh five, | until | twenty ten | from | eighteen hundred
        the 1990s, 1960's, the 2000s, 1900s ⇒ the | nineteen nineties, | nineteen sixties, | the | two thousands, | nineteen hundreds
        '90s the 80s in her 20s mid-1990s ⇒ nineties | the | eighties | in | her | twenties | mid-nineteen nineties
        1939–1945 1999-2005 1999 - 2005 ⇒ nineteen thirty-nine to | nineteen forty-five | nineteen ninety-nine to two thousand five | nineteen ninety-nine to | two thousand five
        from 1999 to 2005, between 1914 and 1918 ⇒ from | nineteen ninety-nine | to | two thousand five, | between | nineteen fourteen | and | nineteen eighteen
        2024/25 2024–25 FY2024 Q3 2024 ⇒ twenty twenty-four twenty-five | twenty twenty-four to | twenty-five | FY twenty twenty-four | Q three | twenty twenty-four
        (2019) © 2026 1066 BC. 2024 was good. It was 1999. ⇒ (twenty nineteen) | copyright | twenty twenty-six | ten sixty-six | BC. | twenty twenty-four | was | good. | It | was | nineteen ninety-nine.
        the 2024 election 2000 people in 1500 words ⇒ the | twenty twenty-four | election | two thousand | people | in | one thousand five hundred | words
        after 1200 meters I counted 1999 ⇒ after | one thousand two hundred | meters | I | counted | one thousand nine hundred ninety-nine
    """,
    "times": """
        10:30 10:05 10:00 17:45 17:00 0:00 00:30 ⇒ ten thirty | ten oh five | ten o'clock | seventeen forty-five | seventeen hundred | midnight | zero thirty
        3 pm 5pm 5 PM. ⇒ three | p m | five p m | five | p m.
        10:30am 10:30 a.m. today 10 a.m. ⇒ ten thirty a-m | ten thirty | a-m | today | ten | a-m.
        12:00 p.m. It 12am 10.30pm ⇒ twelve | p m. | It | twelve a-m | ten thirty p m
        9am–5pm 9-5 10:30–11:30 3–5 pm ⇒ nine a-m to | five p m | nine to five | ten thirty to | eleven thirty | three to | five | p m
        10:00 o'clock 7 o'clock 18:30h ⇒ ten | o'clock | seven | o'clock | eighteen thirty
        10:30:15 3:1 16:9 ⇒ ten thirty and fifteen seconds | three to one | sixteen to nine
    """,
    "ranges and chains": """
        10-15 10–15 kg 3-2 50-50 ⇒ ten to fifteen | ten to | fifteen | kilograms | three to two | fifty fifty
        4-4-2 1-2-3 123-45-6789 ⇒ four four two | one two three | one two three four five six seven eight nine
        200-1000 5kg-10kg 1–2 ⇒ two hundred to one thousand | five kilograms to ten kilograms | one to | two
    """,
    "telephones": """
        555-1234 555–1234 ⇒ five five five one two three four | five five five | one two three four
        (555) 123-4567 555-123-4567 ⇒ (five five five) | one two three four five six seven | five five five one two three four five six seven
        555.123.4567 +15551234567 ⇒ five five five one two three four five six seven | plus one five five five one two three four five six seven
        +44 20 7946 0958 ⇒ plus four four | two zero | seven nine four six | zero nine five eight
        020 7946 0958 ⇒ zero two zero | seven nine four six | zero nine five eight
        4111 1111 1111 1111 ⇒ four one one one | one one one one | one one one one | one one one one
        1-800-555-0199 1-800-FLOWERS ⇒ one eight zero zero five five five zero one nine nine | one eight zero zero-FLOWERS
        call 911 code 90210 ⇒ call | nine one one | code | nine zero two one zero
    """,
    "units": """
        10 kg 5kg 1 kg 1kg. It 0.5 kg ⇒ ten | kilograms | five kilograms | one | kilogram | one kilogram. | It | zero point five | kilograms
        5 km/h 60mph 5 m/s ⇒ five | kilometers per hour | sixty miles per hour | five | meters per second
        20°C -1°C 5 °F 45° 37.5℃ ⇒ twenty degrees Celsius | minus one degree Celsius | five | degrees Fahrenheit | forty-five degrees | thirty-seven point five degrees Celsius
        5°–10°C ⇒ five degrees to | ten degrees Celsius
        10GB 512 MB 5 ms 30 m² 5 m 3.5 GHz ⇒ ten gigabytes | five hundred twelve | megabytes | five | milliseconds | thirty | square meters | five | meters | three point five | gigahertz
        6 ft 1 ft 6 ft. tall 5 lbs. Then ⇒ six | feet | one | foot | six | feet | tall | five | pounds. | Then
        10-km run 5-in-1 I have 5 in it 6in ⇒ ten-kilometer | run | five-in-one | I | have | five | in | it | six inches
        10 sq ft 5 sq. m 3x 1920x1080 5 x 10 ⇒ ten | square | feet | five | square | meters | three times | one thousand nine hundred twenty by one thousand eighty | five | by | ten
        5GB/mo 5/day 100 mg/kg ⇒ five gigabytes per month | five per day | one hundred | milligrams per kilogram
        5'10" 6'2 ⇒ five foot ten | six foot two
    """,
    "numbers in names": """
        H2O MP3 MP3s B2B A4 3D i18n ⇒ H two O | MP three | MP threes | B two B | A four | three D | i eighteen n
        GPT-4 COVID-19 F-16s 20-year-old 5-star ⇒ GPT-four | COVID-nineteen | F-sixteens | twenty-year-old | five-star
        v2.1 3.10.2 v3 V8 Python 3.10 ⇒ version two point one | three point ten point two | version three | V eight | Python | three point ten
        192.168.1.1 ⇒ one hundred ninety-two dot one hundred sixty-eight dot one dot one
        No. 5 no. 5, #1 Nos. 5 No. Five ⇒ number | five | number | five, | number one | numbers | five | No. | Five
        p. 5, pp. 5–6, Fig. 3 vol. II ⇒ page | five, | pages | five to | six, | figure | three | volume | two
        24/7 9/11 ⇒ twenty-four seven | nine eleven
        ISO-8859-1 0x1F ⇒ ISO-eight thousand eight hundred fifty-nine-one | zero x one F
    """,
    "numerals of other kinds": """
        ٣ kg ५% １２ 𝟏𝟐 ⇒ three | kilograms | five percent | twelve | twelve
        ① ⑳ Ⅳ x² m³ 10² H₂O 10^6 y^2 2⁵ ⇒ one | twenty | four | x squared | m cubed | ten squared | H two O | ten to the power of six | y to the power of two | two to the power of five
    """,
    "Roman numerals": """
        King Henry VIII, Louis XIV's ⇒ King | Henry | the eighth, | Louis | the fourteenth's
        Pope John Paul II Elizabeth II King Charles I of ⇒ Pope | John | Paul | the second | Elizabeth | the second | King | Charles | the first | of
        Chapter IV, World War II World War I was Part I. ⇒ Chapter | four, | World | War | two | World | War | one | was | Part | one.
        Act III, Scene 2 type II WWII ⇒ Act | three, | Scene | two | type | two | World War Two
        I, X and MIX. Vitamin C, Class D In this Chapter I say ⇒ I, | X | and | MIX. | Vitamin | C, | Class | D | In | this | Chapter | I | say
    """,
    "abbreviations": """
        Mr. Smith, Mrs. Jones, Ms. Poe and Dr. Who ⇒ Mister | Smith, | Missus | Jones, | Miz | Poe | and | Doctor | Who
        Mr Smith and Dr Who asked Ms Poe ⇒ Mister | Smith | and | Doctor | Who | asked | Miz | Poe
        St. John, Main St. is, in St. Louis, 5th Ave. near Elm Dr. ⇒ Saint | John, | Main | Street | is, | in | Saint | Louis, | fifth | Avenue | near | Elm | Drive.
        cats vs. dogs, A vs B, etc. etc ⇒ cats | versus | dogs, | A | versus | B, | et cetera | et cetera
        apples, etc. He ⇒ apples, | et cetera. | He
        e.g. this, i.e. that (e.g., so) ⇒ for example | this, | that is | that | (for example, | so)
        approx. 5, dept. of, Smith Jr. said ⇒ approximately | five, | department | of, | Smith | Junior | said
        Apple Inc. is at Acme Co. ⇒ Apple | Incorporated | is | at | Acme | Company.
        and/or w/o c/o ⇒ and or | without | care of
        U.S. NASA Ph.D. J. ⇒ U.S. | NASA | Ph.D. | J.
        He said no. Then art. We sat. ⇒ He | said | no. | Then | art. | We | sat.
    """,
    "symbols": """
        A & B, AT&T + C = D @ home ⇒ A | and | B, | AT and T | plus | C | equals | D | at | home
        # #tag C# C++ ~5 ~ ⇒ hash | hashtag tag | C sharp | C plus plus | about five | tilde
        < > <5 >3 a<b 5≤6 <= ⇒ less than | greater than | less than five | greater than three | a less than b | five less than or equal to six | less than or equal to
        × ÷ ± ° © ® ™ → ± 5 ⇒ times | divided by | plus or minus | degrees | copyright | registered | trademark | to | plus or minus | five
        3×4 6÷2 5−3 2+2=4 10-3=7 6*7 ⇒ three times four | six divided by two | five minus three | two plus two equals four | ten minus three equals seven | six times seven
        10 - 3 = 7 a -> b ⇒ ten minus | three | equals | seven | a | to | b
        a/b % / § 5 ==== 18+ +5 ⇒ a slash b | percent | section | five | equals | eighteen plus | plus five
        ±5 x≠y ∞ √2 ⇒ plus or minus five | x not equal to y | infinity | square root of two
    """,
    "addresses": """
        john.smith42@example.com ⇒ john dot smith forty-two at example dot com
        (a_b-c+d@e.org) ⇒ (a underscore b dash c plus d at e dot org)
        https://www.example.com/docs/a-b?x=1. ⇒ www dot example dot com slash docs slash a dash b question mark x equals one.
        See example.org, foo.io/bar! main.py Node.js ⇒ See | example dot org, | foo dot io slash bar! | main dot py | Node dot js
        @user /usr/bin like it.so do ⇒ at user | slash usr slash bin | like | it.so | do
    """,
    "nothing to do": """
        It's only today ⇒ It's | only | today
        “Hello,” she said — well… ⇒ “Hello,” | she | said | well…
        NASA's I.D. naïve 😀 ★ שלום 汉字 ⇒ NASA's | I.D. | naïve | 😀 | ★ | שלום | 汉 | 字
    """,
}


@pytest.mark.parametrize("name", ENGLISH)
def test_english(name: str) -> None:
    # "a ⇒ b" is both a case and the sign of the table, so that one line is split at its last arrow but one.
    check(ENGLISH[name].replace("a -> b ->", "a => b ->"))


def test_outside_america() -> None:
    check(
        """
        101 1,234 ⇒ one hundred and one | one thousand two hundred and thirty-four
        3/4/2026 2026-11-21 14/3/2026 ⇒ the third of April twenty twenty-six | the twenty-first of November twenty twenty-six | the fourteenth of March twenty twenty-six
        on 3/4 in 2005 ⇒ on | the third of April | in | two thousand and five
        3/14/2026 $5 May 5 ⇒ the fourteenth of March twenty twenty-six | five dollars | May | fifth
        """,
        "en-gb",
    )
    assert said("3/4/2026", "en-AU") == "the third of April twenty twenty-six"


@pytest.mark.parametrize("language", ["en-us", "en", "EN-US", "en_US"])
def test_tags_of_american_english(language: str) -> None:
    assert said("101 3/4/2026", language) == "one hundred one | March fourth twenty twenty-six"


def test_lines_are_read_together_and_paragraphs_are_not() -> None:
    assert said("$5\nmillion") == "five | million dollars"
    assert said("$5\n\nmillion") == "five dollars | million"
    assert said("10 \r\n kg") == "ten | kilograms"


def test_a_number_grouped_by_narrow_spaces_is_assigned_to_its_first_word() -> None:
    assert said("10\u00a0000 km") == "ten thousand |  | kilometers"
    assert (
        said("about 1\u202f234\u202f567.") == "about | one million two hundred thirty-four thousand five hundred sixty-seven. |  | "
    )


# Other languages


def test_other_languages() -> None:
    check(
        """
        Ich habe 25 Bücher ⇒ Ich | habe | fünfundzwanzig | Bücher
        25% und 25 %, ⇒ fünfundzwanzig Prozent | und | fünfundzwanzig | Prozent,
        3,14 m ⇒ drei Komma eins vier | m
        12.345 Euro ⇒ zwölftausenddreihundertfünfundvierzig | Euro
        25€ (25,50 €) €25. ⇒ fünfundzwanzig Euro | (fünfundzwanzig Euro und fünfzig | Cent) | fünfundzwanzig Euro.
        """,
        "de",
    )
    check(
        "25 livres, 3,5 % en 1999. ⇒ vingt-cinq | livres, | trois virgule cinq | pour cent | en | mille neuf cent quatre-vingt-dix-neuf.",
        "fr-fr",
    )
    check("95 ou 25 € ⇒ nonante-cinq | ou | vingt-cinq | euros", "fr-BE")
    check("50% o 25,50€. ⇒ cinquanta per cento | o | venticinque euro e cinquanta centesimi.", "it")
    check("25 años y 16% ⇒ veinticinco | años | y | dieciséis por ciento", "es-mx")
    check("16 e 25% ⇒ dezesseis | e | vinte e cinco por cento", "pt-BR")
    check("16 e 25€ ⇒ dezasseis | e | vinte e cinco euros", "pt")
    check("25 boeken ⇒ vijfentwintig | boeken", "nl")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("1 21 Uhr", "de"),  # bends with its noun
        ("am 3. Mai 1999", "de"),  # an ordinal; said by hundreds
        ("10:30 5kg 1990er 5–10 -5 3.5.2026 1.5 +49 30 10 000", "de"),
        ("3,14 10 000", "fr"),  # two ways to say it
        ("1.234 3.14 3,14 200", "es"),  # thousands in one country, a fraction in another; bends with its noun
        ("25,50 €", "pt-br"),
        ("25% 3 $5 & + Mr. etc. No. 5 e.g. 1/2", "ru"),  # nothing is certain there
        ("Mr. & Mrs. Dr. St. @ = + # etc.", "de"),  # English, which is not for other languages
        ("5 10% €5 3.14 1,234", "xx"),
        ("25", "enm"),
    ],
)
def test_ambiguous_numbers_stay_as_written(text: str, language: str) -> None:
    assert said(text, language) == " | ".join(text.split()).replace("5–10", "5– | 10")


def test_digits_of_other_scripts_become_ascii_in_every_language() -> None:
    assert said("५ ٣%", "hi") == "5 | 3%"
    assert said("٢٥ Bücher", "de") == "fünfundzwanzig | Bücher"
    assert said("\U0001e4f5 \U00011f55") == "five | five"  # newer than Python's tables


# Signs of our own notation


def test_a_literal_tag_is_words() -> None:
    assert said("It's <emph>only <pause_short:1200ms>") == (
        "It's | less than emph greater than only | less than pause_short: one thousand two hundred milliseconds greater than"
    )
    assert said("<emph>", "de") == "kleiner als emph größer als"
    assert said("a<emph>b", "ja") == "a‹emph›b"


def test_marks_do_not_change_the_spoken_form() -> None:
    marked = parse("Only <emph>$299 <pause_long>and $5 <emph>million<pause_short>.")
    assert [spoken_word.spoken for spoken_word in spoken_words(marked)] == [
        spoken_word.spoken for spoken_word in spoken_words(plain(marked.text))
    ]


# Aliases


def aliased(text: str, *aliases: tuple[str, str], language: str = "en-us") -> str:
    placed = tuple(Alias(text.index(piece), text.index(piece) + len(piece), spoken) for piece, spoken in aliases)
    return " | ".join(spoken_word.spoken for spoken_word in spoken_words(MarkedText(text, (), placed), language))


def test_an_alias_replaces_its_word() -> None:
    assert aliased('"W3C, and', ("W3C", "World Wide Web Consortium")) == '"World Wide Web Consortium, | and'
    assert aliased("the ßß", ("ßß", "x"), language="de") == "the | x"


def test_an_alias_over_several_words_is_assigned_to_the_first_with_the_last_punctuation() -> None:
    assert aliased("see (Dr. Smith Jr.), now", ("Dr. Smith Jr.", "the doctor")) == "see | (the doctor), |  |  | now"


def test_an_alias_of_a_part_replaces_that_part() -> None:
    assert aliased("AB CD.", ("B C", "bee cee")) == "A bee cee | D."
    assert aliased("H2O2", ("2", "zwei")) == "H zwei O two"
    assert aliased("pre-W3C-era", ("W3C", "web")) == "pre-web-era"


def test_an_alias_hides_its_text_from_the_rules() -> None:
    assert aliased("$5 million now", ("million", "clams")) == "five dollars | clams | now"
    assert aliased("see http://a.b/c now", ("/c", "dee")) == "see | a dot b dee | now"
    assert aliased("Dr. Who", ("Who", "5")) == "Dr. | five"


def test_aliases_are_verbalised() -> None:
    assert aliased("x y", ("x", "$5 & <emph> 2\x00nd — ٣")) == "five dollars and less than emph greater than two nd — three | y"


def test_an_alias_between_words_is_assigned_to_the_word_before() -> None:
    assert aliased("10 - 15", ("-", "until")) == "ten until | fifteen"
    assert aliased("— go", ("—", "dash")) == "dash go"
    assert aliased("go — ", ("—", "dash")) == "go dash"


def test_empty_and_overlapping_aliases() -> None:
    assert aliased("x y", ("x", "")) == " | y"
    assert aliased("x y", ("x y", "five"), ("y", "z")) == "five | "
    text = MarkedText("ab", (), (Alias(1, 1, "and"), Alias(9, 12, "nowhere")))
    assert [spoken_word.spoken for spoken_word in spoken_words(text)] == ["a and b"]


# Any text

PIECES = [
    "$299", "5", "1", "0", "–", "-", "—", ".", ",", ":", "/", "%", "$", "€", "million", "kg", "May", "Nov.", "pm", "a.m.", "in", "1999", "st", "th", "x",
    "VIII", "King", "Henry", "Mr.", "etc.", "http://", "www.", "@", ".com", "#", "&", "+", "=", "<", ">", "<emph>", "~", "½", "²", "₂", "①", "°", "C", "'",
    '"', "(", ")", " ", " ", " ", "\n", "\n\n", "\u00a0", "\x00", "\x1b", "\u00ad", "\u200b", "٣", "५", "汉", "ก", "😀", "👩‍👩‍👧", "e\u0301", "\u0301", "\ufffc",
    "k", "M", "T", "v2", "e", "E9", "am", "1/2", "2026-11-21", "10:30", "+1 555", "555-1234", "−", "^", "*", "_", "\\", "S", "s",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=20).map("".join)
LANGUAGES = st.sampled_from(["en-us", "en-gb", "de", "fr", "es", "pt-br", "ru", "xx"])


@st.composite
def marked_texts(draw: st.DrawFn) -> MarkedText:
    text = draw(TEXTS)
    bounds = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(sorted)
    aliases = draw(st.lists(st.tuples(bounds, TEXTS), max_size=3))
    return MarkedText(text, (), tuple(Alias(start, end, spoken) for (start, end), spoken in aliases))


@given(marked_texts(), LANGUAGES)
@example(plain(""), "en-us")
@example(plain(" — "), "en-us")
def test_one_spoken_form_a_word_in_order_and_bounded(marked: MarkedText, language: str) -> None:
    spoken = spoken_words(marked, language)
    assert [spoken_word.word for spoken_word in spoken] == segment_words(marked.text)
    given_length = len(marked.text) + sum(len(alias.spoken) for alias in marked.aliases)
    assert sum(len(spoken_word.spoken) for spoken_word in spoken) <= 32 * given_length


@given(TEXTS, LANGUAGES)
def test_markup_and_control_characters_are_removed(text: str, language: str) -> None:
    for spoken_word in spoken_words(plain(text), language):
        assert not set(spoken_word.spoken) & set("<>\x00\x1b\u00ad\u200b")


@given(TEXTS)
def test_english_has_no_digits_left(text: str) -> None:
    assert not any(sign.isdecimal() for spoken_word in spoken_words(plain(text)) for sign in spoken_word.spoken)


@given(st.text(st.characters(categories=["Lu", "Ll", "Po", "Zs"], max_codepoint=0x24F), max_size=40), LANGUAGES)
def test_words_without_figures_or_signs_stay_as_they_are(text: str, language: str) -> None:
    text = "".join(sign for sign in text if sign not in "./@#%&IVXLCDM\u00b6\u00a7*")
    for spoken_word in spoken_words(plain(text), language):
        run = text[spoken_word.word.start : spoken_word.word.end]
        if len(spoken_word.word.core(text)) > 7:  # longer than any abbreviation
            assert spoken_word.spoken == run


@given(st.integers(0, 10**18 - 1))
def test_every_whole_number_is_one_word_with_its_punctuation(number: int) -> None:
    (spoken_word,) = spoken_words(plain(f"({number:,}),"))
    assert spoken_word.spoken.startswith("(")
    assert spoken_word.spoken.endswith("),")
    assert spoken_word.spoken[1:-2].replace(" ", "").replace("-", "").isalpha()


# Time

HOSTILE = ["1 ", "$", "$1", "1,", "1.", "1-", "1–", "1/", "1:", "1,111,", "<", "a@", "a.b@", "-1", "½", "x²", "a\x00", "May 5 ", "in 1999 ", "e.g.", "Henry VIII ",
           "+1 ", "+1", "1e", "5am", "5'", "a-.", "≤", "10\u00a0000 ", "中5", "1 1/2 ", "http://", "$5 million "]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear_in_length(piece: str) -> None:
    # Both lengths are beyond the bound of the longest rule, 2,000 characters of a web address.
    assert is_linear(lambda text: spoken_words(plain(text)), piece * (8_000 // len(piece)), piece * (32_000 // len(piece)))


@pytest.mark.parametrize("piece", ["7", "a", "I", "a.", "😀", "٣", "a\x00", "www.", "a.com", "word ", "\x00"])
def test_a_megabyte(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    counts: list[int] = []
    assert is_linear(lambda part: counts.append(len(spoken_words(plain(part)))), text[: len(text) // 4], text)
    assert len(segment_words(text)) in counts


def test_text_without_figures_costs_little_more_than_its_segmentation() -> None:
    text = "It is only the quick brown fox that jumps over some lazy dogs, and then sleeps. " * 1250
    assert len(spoken_words(plain(text))) == 20_000

    def seconds(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    # About 3 times; trying every rule on every word would cost 50 times and more.
    assert any(seconds(lambda: spoken_words(plain(text))) < 10 * seconds(lambda: segment_words(text)) for _ in range(3))


def test_num2words_is_loaded_only_for_numbers() -> None:
    code = (
        "import sys, synth.normalisation as s; from prosody_tagger.markup import plain; s.spoken_words(plain('no figures here')); "
        "assert 'num2words' not in sys.modules; s.spoken_words(plain('7')); assert 'num2words' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
