"""An expression on the command line, read token by token, with errors that name the place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from merkhet.core.errors import InputError

TOKEN = re.compile(
    r"(?P<number>\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)|(?P<word>[a-z]\w*)", re.I
)
MARKS = "+*(),=-"
LONGEST = 120  # letters of an expression that messages repeat


@dataclass(frozen=True)
class Token:
    """A piece of an expression: its kind ("number", "word", a mark, "end"), text and place."""

    kind: str
    text: str
    place: int


class Reader:
    """An expression, read token by token.

    Args:
        text: The expression.

    Raises:
        InputError: A sign that no expression has.
    """

    def __init__(self, text: str) -> None:
        self.text, self._next = text, 0
        self._tokens = list(self._split())

    @property
    def token(self) -> Token:
        """The token that comes next."""
        return self._tokens[self._next]

    def take(self, *kinds: str) -> Token | None:
        """Return the next token and go on if it is of these kinds; otherwise return None."""
        found = self.token
        if found.kind not in kinds:
            return None
        self._next += 1
        return found

    def expect(self, *kinds: str) -> Token:
        """Return the next token, which must be of these kinds."""
        found = self.take(*kinds)
        if found is None:
            raise InputError(f"{self.here(self.token)}: expected {' or '.join(kinds)}")
        return found

    def here(self, token: Token) -> str:
        """Return where a token stands, for messages."""
        at = f"at {_short(token.text)!r}, place {token.place + 1}" if token.text else "at its end"
        return f"penalty {_short(self.text)!r}, {at}"

    @contextmanager
    def at(self, token: Token) -> Iterator[None]:
        """Put the place of a token before the errors that it makes."""
        try:
            yield
        except (InputError, TypeError) as error:
            raise InputError(f"{self.here(token)}: {error}") from error

    def _split(self) -> Iterator[Token]:
        """Yield the tokens, and one for the end."""
        place = 0
        while place < len(self.text):
            sign = self.text[place]
            found = TOKEN.match(self.text, place)
            if found:
                yield Token(str(found.lastgroup), found[0], place)
            elif sign in MARKS:
                yield Token(sign, sign, place)
            elif not sign.isspace():
                raise InputError(f"{self.here(Token('', sign, place))}: no such sign here")
            place += len(found[0]) if found else 1
        yield Token("end", "", place)


def _short(text: str) -> str:
    """Return a text for a message, cut where it is long."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
