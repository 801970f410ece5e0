"""Which names mean one image though they are written in different ways: the one rule by which tables are joined.

Two names are one image if they are the same, or if they become the same by the first of these steps that makes them so:

1. slashes for backslashes, no detours (``./``), one Unicode form (NFC);
2. lower case;
3. no image suffix;
4. no folders in front of one of the two;

and no other name of either table becomes the same by that step. Nothing is guessed: where two names could be meant, none is
taken.
"""

import difflib
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from utils.images import IMAGE_EXTENSIONS


def match_names(wanted: Iterable[str], given: Iterable[str]) -> dict[str, str]:
    """Return the name in ``given`` of each image of ``wanted``, by its name in ``wanted``; images without one are left out."""
    wanted, given = list(dict.fromkeys(wanted)), list(dict.fromkeys(given))
    matches = {name: name for name in set(wanted) & set(given)}
    for names_like in (_by(_one_form), _by(_lower), _by(_bare), _by_tail):
        if len(matches) == len(wanted):
            break
        ours, theirs = names_like(wanted), names_like(given)
        for name in wanted:
            like = [] if name in matches else theirs(name)
            if len(like) == 1 and len(ours(like[0])) == 1:
                matches[name] = like[0]
    return {name: matches[name] for name in wanted if name in matches}


def nearest(name: str, names: Sequence[str], most: int = 3) -> list[str]:
    """Return the names closest to a name, those with the same file name first; the first of ``names`` if none is close."""
    file = posixpath.basename(_bare(name))
    alike = [other for other in names if posixpath.basename(_bare(other)) == file]
    keys = {_bare(other): other for other in names}
    close = [keys[key] for key in difflib.get_close_matches(_bare(name), keys, most)] if len(alike) < most else []
    return list(dict.fromkeys([*alike, *close]))[:most] or list(names[:1])


def written_otherwise(matches: dict[str, str]) -> str:
    """Return a note on the names of ``match_names`` that are written in another way; empty if there are none."""
    pairs = [pair for pair in matches.items() if pair[0] != pair[1]]
    return f"{len(pairs)} by a name that is written in another way, e.g. {pairs[0][1]} for {pairs[0][0]}" if pairs else ""


def amount(count: int, what: str) -> str:
    """Return a count with its noun: "1 scene", "3 scenes"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


_Like = Callable[[str], list[str]]


def _by(key: Callable[[str], str]) -> Callable[[list[str]], _Like]:
    def names_like(names: list[str]) -> _Like:
        groups = defaultdict(list)
        for name in names:
            groups[key(name)].append(name)
        return lambda name: groups.get(key(name), [])

    return names_like


def _by_tail(names: list[str]) -> _Like:
    """Group names for a look-up of those that end in a name, or that the name ends in, by whole folders."""
    whole, ending = defaultdict(list), defaultdict(list)
    for name in names:
        key = _bare(name)
        whole[key].append(name)
        for tail in _tails(key):
            ending[tail].append(name)

    def like(name: str) -> list[str]:
        key = _bare(name)
        return [*ending.get(key, []), *(other for tail in _tails(key)[1:] for other in whole.get(tail, []))]

    return like


def _tails(key: str) -> list[str]:
    folders = key.split("/")
    return ["/".join(folders[i:]) for i in range(len(folders))]


def _one_form(name: str) -> str:
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def _lower(name: str) -> str:
    return _one_form(_one_form(name).casefold())  # lower case can take a name out of NFC


def _bare(name: str) -> str:
    stem, suffix = posixpath.splitext(_lower(name))
    return stem if suffix in IMAGE_EXTENSIONS else _lower(name)
