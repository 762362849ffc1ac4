"""A Jinja environment for templates of strangers.

A template is a program, and it runs in a process that other guests use too. Each call, filter,
iteration and operator counts, and so does the memory of what it makes. What takes more than
``Work`` allows is refused before it is done.

Python code that a template calls must end soon by itself: nothing can interrupt one operation on
a giant text. So a text, a list or a number that would become giant is never made, and what is
nested counts as often as it occurs.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from functools import wraps
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from wasi_nn.backend import Reserve
from wasi_nn.errors import InvalidArgument, RuntimeFailure

# Of this thread's processor time.
_SECONDS = 5
# In bytes: beside the variables, the copies of them that a template may make, and what the guest's
# limit is asked for at once.
_MEMORY, _COPIES, _BLOCK = 64 << 20, 8, 1 << 20
# An operation, and each value that it makes, count as so many bytes more.
_STEP, _VALUE = 200, 64
# Python holds a character of a text, and one that stands alone, in so many bytes. It writes a value
# as a text in so many times the bytes that the value has.
_UNICODE, _CHARACTER_BYTES, _REPR = 4, 84, 10
_MAX_BITS = 4096
_MAX_DEPTH = 100
_MAX_INDENT = 32
_MAX_FIELD = 10_000
_WIDE_FIELD = re.compile(r"\*|\d{5}")

_OF_TEXTS = "capitalize escape format indent lower replace string title trim upper".split()
_OF_LISTS = """groupby list map max min reject rejectattr select selectattr sort unique""".split()
_OF_OTHERS = "abs attr count dictsort first float int items last length reverse round".split()
_TEXT_METHODS = frozenset("""capitalize casefold center count endswith find index isalnum isalpha
isdecimal isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip partition
removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines
startswith strip swapcase title upper zfill""".split())  # fmt: skip
_METHODS: tuple[tuple[Any, frozenset[str]], ...] = (
    (str, _TEXT_METHODS),
    (dict, frozenset(("get", "items", "keys", "values"))),
    ((list, tuple), frozenset(("count", "index"))),
    ((int, float, complex, bytes, range), frozenset()),
)


_CONTAINERS = (list, tuple, dict, KeysView, ValuesView, ItemsView)


class Work:
    """What one template may still do. ``stopped`` tells that the guest must end; the memory counts
    with ``reserve`` until ``release``."""

    def __init__(self, variables: object, reserve: Reserve, stopped: Callable[[], bool]) -> None:
        """Raises ``InvalidArgument`` for variables that nest too deep."""
        self.left = sys.maxsize
        self._reserve, self._reserved, self._stopped = reserve, 0, stopped
        self._end = time.thread_time() + _SECONDS
        self.left = self._most = _MEMORY + _COPIES * self.weigh(variables)

    def release(self) -> None:
        """Give the memory back."""
        if self._reserved:
            self._reserve(-self._reserved)
            self._reserved = 0

    def spend(self, size: int = 0) -> None:
        """Count an operation that makes ``size`` bytes. Raises ``InvalidArgument`` for too many,
        and ``RuntimeFailure`` if the time is over or the guest must end."""
        self.check(size)
        self.left -= size + _STEP
        more = self._most - self.left - self._reserved
        if more > 0:
            more = -(-more // _BLOCK) * _BLOCK
            self._reserve(more)
            self._reserved += more
        if self._stopped():
            raise RuntimeFailure("the guest is being stopped")
        if time.thread_time() > self._end:
            raise RuntimeFailure(f"the chat template computes for more than {_SECONDS} seconds")

    def check(self, size: float) -> None:
        """Raise ``InvalidArgument`` if ``size`` bytes more are too many."""
        if size > self.left:
            raise InvalidArgument("the chat template takes too much memory or too many steps")

    def made(self, value: Any) -> Any:
        """Count a value that an operation has made, and return it."""
        self.spend(self.weigh(value))
        return value

    def each(self, values: Iterable[Any]) -> Iterator[Any]:
        """Count each value of an iteration."""
        for value in values:
            self.spend()
            yield value

    def weigh(self, value: object, depth: int = 0) -> int:
        """The bytes of a value. What it contains several times counts each time."""
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise InvalidArgument(f"a number has more than {_MAX_BITS} bits")
        size = sys.getsizeof(value, 0) + _VALUE
        if isinstance(value, _CONTAINERS):
            if depth == _MAX_DEPTH:
                raise InvalidArgument(f"a list or object is nested more than {_MAX_DEPTH} deep")
            for one in value:
                size += self.weigh(one, depth + 1)
                if isinstance(value, dict):
                    size += self.weigh(value[one], depth + 1)
                self.check(size)
        return size

    def text(self, value: object) -> str:
        """A value as a text."""
        if not isinstance(value, str):
            self.check(_REPR * self.weigh(value))
        return str(value)

    def check_texts(self, value: object, arguments: Iterable[object]) -> None:
        """Raise ``InvalidArgument`` if a method of texts could make too much out of ``value``, or
        take too long: it may repeat an argument, or look for it, at each character."""
        size = (len(value) if isinstance(value, str) else self.weigh(value)) + 1
        for one in arguments:
            if isinstance(one, str):
                self.check(size * len(one))
            elif isinstance(one, int):
                self.check(size * abs(one))
            else:
                self.check(size * self.weigh(one))


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """An environment for one rendering. Operations raise what ``Work.spend`` raises."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, work: Work) -> None:
        # Nothing is computed while a template is compiled: without an optimizer, and with a
        # finalizer that needs a context.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=self._finalize,
            optimized=False,
        )
        self.code_generator_class = _Compiler
        self.work = work
        self.filters = {
            name: self._bounded(name, FILTERS[name])
            for name in (*_OF_TEXTS, *_OF_LISTS, *_OF_OTHERS)
        }
        self.filters |= {
            "concat": self._concat,
            "d": FILTERS["default"],
            "default": FILTERS["default"],
            "e": self.filters["escape"],
            "each": work.each,
            "join": self._join,
            "made": work.made,
            "safe": work.text,
            "tojson": self._as_json,
        }
        del self.globals["lipsum"]
        self.globals["namespace"] = _Namespace

    def template(self, text: str, functions: dict[str, Any]) -> Any:
        """The compiled template. It can call ``functions``."""
        tree = _Bounds().visit(self.parse(text))
        code = self.compile(tree)
        return self.template_class.from_code(self, code, self.make_globals(functions))

    def wrap_str_format(self, value: Any) -> None:
        """Texts have no ``format`` here: ``is_safe_attribute`` refuses it."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, names in _METHODS:
            if isinstance(obj, kind):
                return attr in names
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        work = __self.work
        work.spend()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            args = tuple(map(_values, args))
            work.check_texts(owner, (*args, *kwargs.values()))
            if "split" in __obj.__name__:
                between = args[0] if args and isinstance(args[0], str) else None
                parts = owner.count(between) if between else len(owner) // 2
                work.check(parts * _CHARACTER_BYTES)
        return work.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            self._check_form(left, right)
        elif operator in ("*", "**"):
            bits = [one.bit_length() for one in (left, right) if isinstance(one, int)]
            if len(bits) == 2 and operator == "**":
                self._check_bits(bits[0] * max(right, 0))
            elif len(bits) == 2:
                self._check_bits(sum(bits))
            elif bits and operator == "*":
                count, repeated = (left, right) if isinstance(left, int) else (right, left)
                text = isinstance(repeated, str)
                size = _UNICODE * len(repeated) if text else self.work.weigh(repeated)
                self.work.check(size * max(count, 0))
        return self.work.made(super().call_binop(context, operator, left, right))

    @staticmethod
    def _check_bits(bits: int) -> None:
        if bits > _MAX_BITS:
            raise InvalidArgument(f"a number would have more than {_MAX_BITS} bits")

    def _check_form(self, form: str, values: object) -> None:
        if _WIDE_FIELD.search(form):
            raise InvalidArgument(f"the width of a text that {form[:80]!r} makes is too large")
        self.work.check(form.count("%") * (_REPR * self.work.weigh(values) + _MAX_FIELD))

    @pass_context
    def _finalize(self, context: Context, value: Any) -> str:
        # transformers would write "None" for a null content.
        return str(self.work.made("" if value is None else self.work.text(value)))

    def _concat(self, values: list[Any]) -> str:
        return "".join([str(self.work.made(self.work.text(value))) for value in values])

    def _join(self, values: Any, d: Any = "") -> str:
        work = self.work
        pieces = [work.made(work.text(value)) for value in values]
        between = work.text(d)
        work.check(len(pieces) * len(between))
        return str(work.made(between.join(pieces)))

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter ``name`` of Jinja's, with its work counted."""
        work = self.work
        passed = int(hasattr(function, "jinja_pass_arg"))

        @wraps(function)
        def bounded(*arguments: Any, **named: Any) -> Any:
            work.spend()
            first, value, others = arguments[:passed], arguments[passed], arguments[passed + 1 :]
            if name in _OF_TEXTS:
                value = work.text(value)
            elif name in _OF_LISTS:
                if isinstance(value, str):
                    work.check(_CHARACTER_BYTES * len(value))
                value = work.each(value)
            if name == "format":
                self._check_form(value, (*others, named))
            elif name != "attr":
                work.check_texts(value, (*others, *named.values()))
            result = function(*first, value, *others, **named)
            return work.made(str(result) if name == "escape" else result)

        return bounded

    def _as_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        for one in (indent, *(separators or ())):
            if one is not None and (len(one) if isinstance(one, str) else one) > _MAX_INDENT:
                raise InvalidArgument(f"tojson indents by at most {_MAX_INDENT} characters")
        self.work.check(self.work.weigh(value))
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
        pieces = []
        for piece in encoder.iterencode(value):
            self.work.spend(len(piece))
            pieces.append(piece)
        return "".join(pieces)


def _values(value: Any) -> Any:
    """A list in place of something that can only be iterated, so that it has a size."""
    known = (str, int, float, list, tuple, dict, Undefined)
    return list(value) if isinstance(value, Iterable) and not isinstance(value, known) else value


class _Namespace(Namespace):
    """Whatever a template has put into it, its text is short."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant wrote, for training."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class _Bounds(NodeTransformer):
    """Adds filters that count to what Jinja compiles to plain Python."""

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        # The finalizer does not see data, but constants.
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "each")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "concat")

    def visit_List(self, node: nodes.Node) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "made")

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "made") if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "made") if isinstance(node.arg, nodes.Slice) else node

    def visit_ScopedEvalContextModifier(self, node: nodes.Node) -> nodes.Node:
        raise TemplateError("autoescape is not supported")


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Compiler(CodeGenerator):
    """Some templates take the square of their length to compile."""

    environment: BoundedEnvironment

    def visit(self, node: nodes.Node, *arguments: Any, **named: Any) -> Any:
        self.environment.work.spend()
        return super().visit(node, *arguments, **named)
