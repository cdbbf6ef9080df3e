"""Errors a user can act on.

Every error that reaches a user says what went wrong, where, what was found, what was expected and what to do next.
Each class maps to one stable exit code of the command line.
"""

from __future__ import annotations


class StarEdgeError(Exception):
    """Base of all errors raised on purpose; the CLI prints it without a traceback.

    Args:
        what: one sentence naming the problem.
        where: file, line, node or argument it concerns.
        found: what was met there.
        expected: what should have been there.
        hint: the next command or action.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.found = None if found is None else str(found)
        self.expected = None if expected is None else str(expected)
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        for label, value in (
            ("where", self.where),
            ("found", self.found),
            ("expected", self.expected),
            ("next", self.hint),
        ):
            if value is not None:
                lines.append(f"  {label + ':':<10}{value}")
        return "\n".join(lines)


class InputError(StarEdgeError):
    """A file or argument given by the user cannot be used (exit code 2)."""

    exit_code = 2


class GateError(StarEdgeError):
    """An accuracy, parity or latency gate was missed (exit code 3)."""

    exit_code = 3


class MismatchError(StarEdgeError):
    """Environment, versions or files that do not belong together (exit code 4)."""

    exit_code = 4


class MissingDependencyError(MismatchError):
    """A package that the verb or engine needs is not installed (exit code 4)."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed",
            expected=package,
            hint=f"pip install 'star-edge[{extra}]'",
        )
