"""How long a text can take to say, at the very most: what goes on after that is not the text."""

import regex

_START_SECONDS = 5.0  # for the voice to begin and to end, and for texts of a word
_WEIGHTS = (
    (3, regex.compile(r"[\p{Lu}\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")),  # a letter that may be spelled out, a syllable
    (5, regex.compile(r"[\p{N}\p{S}%‰&@#§]")),  # read as whole words
)


def most_seconds(text: str, per_char: float, speed: float = 1.0) -> float:
    """Seconds that ``text`` takes at most if a small letter takes ``per_char``; signs that stand for more count for more."""
    weight = len(text) + sum((factor - 1) * len(pattern.findall(text)) for factor, pattern in _WEIGHTS)
    return _START_SECONDS + weight * per_char / min(speed, 1.0)
