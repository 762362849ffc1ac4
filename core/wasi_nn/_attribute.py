"""Attributes of the contracts, which a plugin's class may set in any way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    attribute = property
else:

    class attribute:
        """Declares an attribute of a contract, with its default value and its documentation.

        A subclass may override it by a class attribute or a property, or set it on an object. A
        property of the contract would forbid the last, and a plain attribute the second."""

        def __init__(self, default: Callable[[Any], Any]) -> None:
            self._default = default
            self.__doc__ = default.__doc__

        def __get__(self, item: Any, owner: type | None = None) -> Any:
            return self if item is None else self._default(item)
