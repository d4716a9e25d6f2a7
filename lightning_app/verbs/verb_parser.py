"""The parser of the verbs that build no recipe; it imports neither Lightning nor jsonargparse."""

import argparse
import difflib
from typing import NoReturn

from modules.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser that raises `UserError` with the nearest name instead of printing usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse has to say, in one line."""
        if message.startswith("unrecognized arguments: "):
            key = message.split()[2].partition("=")[0]
            message = f"unknown key '{key}'" + self.near(key.lstrip("-"))
        raise UserError(message)

    def near(self, key: str) -> str:
        """A hint at the option that a key may have meant."""
        known = [action.dest for action in self._actions]
        return next((f"; did you mean '{name}'?" for name in difflib.get_close_matches(key, known, n=1)), "")
