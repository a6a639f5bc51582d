"""Pauses by rule: where the punctuation of any script asks for one."""

from collections.abc import Sequence

import regex

from prosody_tagger.segment import Word

_STOP = regex.compile(r"[。！？｡؟۔।॥։።፧។៕။།]")
_CLAUSE = regex.compile(r"[,;:،؛、､，；：︐︓︔﹐﹑﹔﹕՝၊፣፤፥፦·᠂᠈꓾!?…\p{Pd}]|\.\.")


def pause_after(text: str, runs: Sequence[Word], index: int, *, ends_sentence: bool) -> str | None:
    """The pause that follows a word: long after a sentence or a stop that ends nothing else, short after a clause.

    A full stop within a sentence stands after an abbreviation, and asks for none.
    """
    if ends_sentence:
        return "pause_long"
    following = runs[index + 1].core_start if index + 1 < len(runs) else len(text)
    between = runs[index].core_end, following
    if _STOP.search(text, *between):
        return "pause_long"
    return "pause_short" if _CLAUSE.search(text, *between) else None
