"""Text normalisation: numbers, dates, abbreviations and symbols as words, assigned to the words of the written text.

normalise.py         `spoken_words`: the spoken form of each word, with aliases applied
rules.py             replacements, English number words, rules that match by pattern
english.py           the English verbaliser: which rules are tried where
english_dates.py     dates, years, times of day
english_names.py     abbreviations, Roman numerals, addresses
english_numbers.py   numbers, money, fractions, telephone numbers
english_lexicon.py   tables of units, currencies, symbols, abbreviations
other_languages.py   numbers in other languages
"""

from synth.normalisation.normalise import SpokenWord, spoken_words

__all__ = ["SpokenWord", "spoken_words"]
