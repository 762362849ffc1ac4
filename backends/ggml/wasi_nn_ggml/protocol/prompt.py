"""A prompt as the model takes it: tokens, or text and images."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wasi_nn.backend import Reserve
from wasi_nn.errors import InvalidArgument, ModelNotFound, PromptTooLong
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.llama.vision import Picture, Projector, find_picture
from wasi_nn_ggml.protocol import chat
from wasi_nn_ggml.protocol.settings import Settings
from wasi_nn_ggml.reservation import Reservation

if TYPE_CHECKING:
    from wasi_nn_ggml.protocol.graph import GgmlGraph

# Bytes of a prompt that a token stands for, at most, if the vocabulary has no longer one: a prompt
# that cannot fit is not tokenised. A token may stand for more than its own text, for a word that is
# unknown or for spaces that do not count.
_MAX_TOKEN_BYTES = 512
# A context is as large as a guest's config says, and is not made before the prompt is read.
_MAX_TEXT = 16 << 20
#: The same with images, which are the most of it.
MAX_BYTES = 64 << 20


class Projection(NamedTuple):
    """The projector that a context uses, and the bytes that it counts for."""

    path: Path
    model: Model
    projector: Projector
    reservation: Reservation


class Prompt(NamedTuple):
    """``tokens``, or ``picture`` with the projection that made it."""

    n_tokens: int
    tokens: array[int] | None = None
    picture: Picture | None = None
    projection: Projection | None = None


def read(
    graph: GgmlGraph,
    model: Model,
    wanted: Settings,
    text: str,
    known: Projection | None,
    reserve: Reserve,
    stopped: Callable[[], bool],
) -> Prompt:
    """What a guest asked with these settings. ``known`` is the projection that its context has: it
    is used again where it fits. Raises ``NnError``, and holds nothing then."""
    longest = max(_MAX_TOKEN_BYTES, model.vocabulary.longest)
    most = min(longest * (wanted.context.n_ctx or model.n_ctx_train), _MAX_TEXT)
    images = find_picture(text)
    _check(len(text), MAX_BYTES if images else most)
    if wanted.chat:
        try:
            text = chat.prompt(model, text, wanted.chat_template, most, stopped)
        except UnicodeEncodeError as error:
            # JSON can write half of a character.
            raise InvalidArgument(f"a message is not text: {error.reason}") from error
    if wanted.image or images or (wanted.chat and find_picture(text)):
        projection = _projection(graph, model, wanted, known, reserve)
        try:
            # The base64 of the images, twice, and what it stands for.
            with Reservation(reserve, 4 * len(text)):
                picture = projection.projector.read(text, graph.image(wanted), most, reserve)
        except BaseException:
            if projection is not known:
                projection.reservation.release()
            raise
        return Prompt(picture.n_tokens, None, picture, projection)
    data = text.encode("utf-8")
    _check(len(data), most)
    with Reservation(reserve, model.tokenising * len(data)):
        tokens = model.tokenize(data)
    return Prompt(len(tokens), tokens)


def _check(size: int, most: int) -> None:
    if size > most:
        raise PromptTooLong(f"the prompt has {size} bytes: at most {most} can fit the context")


def _projection(
    graph: GgmlGraph, model: Model, wanted: Settings, known: Projection | None, reserve: Reserve
) -> Projection:
    path = graph.projector_path(wanted)
    if known is not None and known.path == path and known.model is model:
        return known
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelNotFound(f"projector {path}: {error.strerror or error}") from error
    reservation = Reservation(reserve, size)
    try:
        projector = graph.projector(model, path, wanted.context)
    except BaseException:
        reservation.release()
        raise
    return Projection(path, model, projector, reservation)
