"""Random JSON documents, mutants of them, and an independent judge: `json.loads` plus this project's stricter rules."""

import json
import random

SPLICES = ['"', "{", "}", "[", "]", ",", ":", "\\", " ", "0", "-", ".", "e", "1", "t", "nul", "\n", "\t", "é", "\ud800"]
CHARS = 'ab"\\/\b\n\t\r\x7fé€😀\u2028 {}[]:,'


def document(rng, depth=3):
    """A random object with unusual keys, numbers, escapes and blanks, as text."""
    text = json.dumps(_object(rng, depth), ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, None, 1]))
    return rng.choice(["", " ", "\n"]) + text + rng.choice(["", " "])


def _object(rng, depth):
    return {_text(rng): _value(rng, depth - 1) for _ in range(rng.randrange(5))}


def _value(rng, depth):
    kind = rng.randrange(8 if depth > 0 else 6)
    if kind == 6:
        return _object(rng, depth)
    if kind == 7:
        return [_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return [None, True, rng.randrange(-99, 99), rng.choice([0.5, -2e30, 1e-7, 10**20]), _text(rng), "plain words"][kind]


def _text(rng):
    return "".join(rng.choice(CHARS) for _ in range(rng.randrange(6)))


def mutant(rng, text):
    """The text with one wrong edit, and where the edit begins."""
    at = rng.randrange(len(text) + 1)
    match rng.randrange(5):
        case 0:
            return text[:at] + rng.choice(SPLICES) + text[at:], at
        case 1:
            return text[:at] + text[at + 1 :], at
        case 2:
            return text[:at] + rng.choice(SPLICES) + text[at + 1 :], at
        case 3:
            return text[:at], at
        case _:
            return text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :], at


def splits(rng, text):
    """The text in random pieces."""
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(1, 12)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def judge(text):
    """The value of a sound document; raises ValueError for any other."""
    value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    if not isinstance(value, dict):
        raise ValueError("no object")  # noqa: TRY004 - one kind of error for every unsound text
    json.dumps(value, ensure_ascii=False).encode()
    return value


def is_sound(text):
    """Whether the judge takes the text."""
    try:
        judge(text)
    except ValueError:
        return False
    return True


def _unique(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("repeated key")
    return dict(pairs)


def _refuse(name):
    raise ValueError(name)


def _finite(digits):
    if float(digits) in {float("inf"), float("-inf")}:
        raise ValueError(digits)
    return float(digits)


def rng_of(seed):
    """A generator of its own for every seed."""
    return random.Random(seed)  # noqa: S311 - repeatable, not secret
