"""Personal data in training examples, replaced by like-shaped stand-ins.

A stand-in keeps the form (a JSON field of format e-mail stays one) and is the same wherever the original
stood in an example, so that a student still learns to copy what the user wrote.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,24}\b")
_CARD = re.compile(r"(?<![\w#-])(?:\d[ -]?){12,18}\d(?![\w-])")
_PHONE = re.compile(
    r"""(?<![\w#.-])(?:
        \+\d{1,3}[ .-]?(?:\(\d{1,4}\)|\d{1,4})(?:[ .-]?\d{2,4}){2,4}   # international, with its plus sign
      | \(\d{3}\)[ ]?\d{3}[ .-]\d{4}                                   # (415) 555-2671
      | \d{3}([ .-])\d{3}\1\d{4}                                       # 415-555-2671
    )(?![\w-]|\.\d)""",
    re.VERBOSE,
)
# A number announced as one of these is the business's own key to a case, whatever it looks like.
_OWN_NUMBER = re.compile(
    r"(?:order|tracking|invoice|ticket|case|ref(?:erence)?|parcel|shipment|serial|sku|item|booking|policy)"
    r"(?:[ _-]?(?:number|no|nr|id|num|code))?[\"']?[ ]*[.:#=]?[ ]*[\"']?(?:is[ ]+)?#?$",
    re.IGNORECASE,
)
# Issuer prefixes and lengths (ISO/IEC 7812): Visa, Mastercard, American Express, Discover, Diners, JCB.
_ISSUER = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|3[47]\d{13}"
    r"|6(?:011|5\d\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}"
)


def redact_texts(texts: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Replace e-mail addresses, phone and card numbers across the texts of one example; count by kind.

    Card numbers need a known issuer and a right check digit (Luhn, ISO/IEC 7812-1), phone numbers their
    usual punctuation or a plus sign, and neither may be announced as an order or the like: bare
    digits are most often order numbers, which a student has to copy.
    """
    counts: Counter[str] = Counter()
    given: dict[tuple[str, str], str] = {}
    redacted = list(texts)
    for kind, pattern, accepts, stand_in in _KINDS:
        redacted = [_replace(t, kind, pattern, accepts, stand_in, given=given, counts=counts) for t in redacted]
    return redacted, dict(counts)


def _replace(
    text: str,
    kind: str,
    pattern: re.Pattern[str],
    accepts: Callable[[str], bool],
    stand_in: Callable[[str, int], str],
    *,
    given: dict[tuple[str, str], str],
    counts: Counter[str],
) -> str:
    def swap(match: re.Match[str]) -> str:
        found = match.group()
        if not accepts(found) or _OWN_NUMBER.search(text[: match.start()]):
            return found
        counts[kind] += 1
        key = (kind, found.lower() if kind == "email" else re.sub(r"\D", "", found))
        if key not in given:
            given[key] = stand_in(found, 1 + sum(known == kind for known, _ in given))
        return given[key] if kind == "email" else _in_form(found, given[key])

    return pattern.sub(swap, text)


def _email(_found: str, number: int) -> str:
    return f"person{number}@example.com"  # reserved by RFC 2606


def _phone(found: str, number: int) -> str:
    digits = re.sub(r"\D", "", found)
    return digits[:-7] + f"55501{number % 100:02d}"  # 555-01xx is kept for fiction


def _card(found: str, number: int) -> str:
    """Zeros with the number's own place, which no issuer uses and no check digit fits by design."""
    length = len(re.sub(r"\D", "", found))
    return f"{number % 1000}".rjust(length, "0")


def _in_form(found: str, digits: str) -> str:
    """`digits` in the punctuation of `found`."""
    source = iter(digits)
    return "".join(next(source) if c.isdigit() else c for c in found)


def _is_card(found: str) -> bool:
    digits = re.sub(r"\D", "", found)
    doubled = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits))]
    return bool(_ISSUER.fullmatch(digits)) and sum(d - 9 * (d > 9) for d in doubled) % 10 == 0


def _is_phone(found: str) -> bool:
    return 9 <= len(re.sub(r"\D", "", found)) <= 15  # E.164 allows 15


_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool], Callable[[str, int], str]], ...] = (
    ("email", _EMAIL, lambda _found: True, _email),
    ("card", _CARD, _is_card, _card),
    ("phone", _PHONE, _is_phone, _phone),
)
