"""The settings of padding: the strategies, and a scheme as text."""

from __future__ import annotations

import re

from phantom.config.kinds import Kind, choice, from_text, quote
from phantom.core.shaping import Padding, Scheme, Timing
from phantom.errors import ConfigurationError

PADDING: Kind[str] = choice(*(padding.value for padding in Padding))
TIMING: Kind[str] = choice(*(timing.value for timing in Timing))

_NUMBER = r"[0-9]{1,10}"
_WORD = re.compile(
    rf"(?P<name>tiny|fill)=(?P<low>{_NUMBER})-(?P<high>{_NUMBER})"
    rf"|(?P<single>least|share|allowance)=(?P<value>{_NUMBER})"
)
_RANGES = {"tiny": ("tiny_low", "tiny_high"), "fill": ("low", "high")}


def parse_scheme(text: str) -> Scheme:
    """Parse ``VERSION [tiny=A-B] [least=N] [fill=A-B] [share=N] [allowance=N]``.

    Raises:
        ConfigurationError: It is written otherwise, or its figures are out of bounds.
    """
    version, *words = text.split() or [""]
    if not re.fullmatch(_NUMBER, version) or not int(version):
        raise ConfigurationError("must begin with the version, a number of 1 or more")
    figures = {"version": int(version)}
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None:
            raise ConfigurationError(
                "after the version may stand tiny=A-B, least=N, fill=A-B, share=N, allowance=N"
            )
        if match["single"]:
            figures[match["single"]] = int(match["value"])
        else:
            low, high = _RANGES[match["name"]]
            figures[low], figures[high] = int(match["low"]), int(match["high"])
    scheme = Scheme(**figures)
    problem = scheme.problem()
    if problem is not None:
        raise ConfigurationError(problem)
    return scheme


def scheme_text(scheme: Scheme) -> str:
    """Return what `parse_scheme` reads."""
    return (
        f"{scheme.version} tiny={scheme.tiny_low}-{scheme.tiny_high} least={scheme.least} "
        f"fill={scheme.low}-{scheme.high} share={scheme.share} allowance={scheme.allowance}"
    )


SCHEME: Kind[Scheme] = from_text(
    'a text such as "1 tiny=236-290 least=300 fill=3420-3880 share=12 allowance=14336"',
    parse_scheme,
    lambda scheme: quote(scheme_text(scheme)),
)
