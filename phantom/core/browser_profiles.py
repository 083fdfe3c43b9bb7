"""Which browsers' TLS hellos there are, what else people ask for, and how old each is.

The package `utls` has Chrome's alone.  Other browsers use other TLS libraries, or the same
with other features, and a hello "like Firefox's" made with Chrome's library differs from
Firefox's in a dozen places, which is easier to block than either.  So their names are
refused, and never silently replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from phantom.errors import ConfigurationError

#: The newest profile there is, and one of them at random.
CHROME: Final = "chrome"
RANDOM: Final = "random"

_CHROME_VERSION = re.compile(r"chrome:([0-9]{2,4})")

#: Why not these.
_REFUSED: Final = {
    "firefox": "Firefox speaks TLS by NSS, whose hello the library behind this cannot make",
    "safari": "Safari speaks TLS by Apple's own library, whose hello ours cannot make",
    "edge": "Edge's hello has differed from Chrome's, and there is no capture of it here",
    "ios": "on iOS every browser has Apple's hello, which the library behind this cannot make",
    "android": "Android's apps have hellos of many libraries, none of which is at hand here",
    "qq": "there is no capture of it here",
    "360": "there is no capture of it here",
    "randomized": "a hello that no browser sends is easier to block than any browser's",
}

#: Chrome's hello changes once or twice a year, and nearly everybody runs one of the last
#: three versions.
OLD: Final = timedelta(days=240)

#: One version of Chrome whose day is known, and the pace since: every four weeks.
_ANCHOR: Final = (131, datetime(2024, 11, 12, tzinfo=UTC))
_PACE: Final = timedelta(weeks=4)


def parse_profile(text: str) -> str:
    """Return the profile that `text` names, in lower case.

    Raises:
        ConfigurationError: There is none of that name, with the reason.
    """
    name = text.strip().lower()
    if name in (CHROME, RANDOM) or _CHROME_VERSION.fullmatch(name):
        return name
    reason = _REFUSED.get(re.split(r"[:/ _-]", name)[0])
    if reason is not None:
        raise ConfigurationError(f'there is no honest "{name}": {reason}', fix='use "chrome"')
    raise ConfigurationError('must be "chrome", "chrome:NUMBER" or "random"')


def preset_for(profile: str, presets: Iterable[str], choose: Callable[[Sequence[str]], str]) -> str:
    """Return the preset of the library to use for a profile.

    Args:
        profile: From `parse_profile`.
        presets: The names that the library knows.
        choose: Picks one, for ``random``.

    Raises:
        ConfigurationError: The library has no such version.
    """
    versions = sorted((name for name in presets if _CHROME_VERSION.fullmatch(name)), key=version_of)
    if profile == RANDOM and versions:
        return choose(versions)
    if profile == CHROME and versions:
        return versions[-1]
    if profile in versions:
        return profile
    known = ", ".join(f'"{name}"' for name in (CHROME, RANDOM, *versions))
    raise ConfigurationError(
        f'there is no profile "{profile}"', key="tls_profile", fix=f"one of {known}"
    )


def version_of(preset: str) -> int:
    """Return the number in ``chrome:NUMBER``.

    Raises:
        ValueError: There is none.
    """
    match = _CHROME_VERSION.fullmatch(preset)
    if match is None:
        raise ValueError("not a version of Chrome")
    return int(match[1])


def age_of(preset: str, now: float) -> timedelta:
    """Return for how long there has been this version of Chrome, to about two weeks.

    Args:
        preset: ``chrome:NUMBER``.
        now: Seconds since the Unix epoch.
    """
    version, day = _ANCHOR
    released = day + (version_of(preset) - version) * _PACE
    return datetime.fromtimestamp(now, UTC) - released


def age_warning(preset: str, now: float) -> str | None:
    """Return what to tell of a profile that has become rare; None if it has not."""
    age = age_of(preset, now)
    if age < OLD:
        return None
    return (
        f"the TLS hello is that of Chrome {version_of(preset)}, of some {age.days // 30} months "
        "ago, which few people still run; pip install --upgrade utls, or take another tls_profile"
    )
