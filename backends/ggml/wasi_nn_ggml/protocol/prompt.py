"""Turns a guest's prompt into what the model takes: tokens, or text and images."""

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
from wasi_nn_ggml.reservation import Reservation
from wasi_nn_ggml.settings import Settings

if TYPE_CHECKING:
    from wasi_nn_ggml.protocol.graph import GgmlGraph

# A prompt that cannot fit is not tokenised. This is the most bytes that a token stands for. A token
# may stand for more than its own text: for an unknown word, or for ignored spaces.
_MAX_TOKEN_BYTES = 512
# In bytes. The prompt is read before the context is made, and a guest's config may name any size.
_MAX_TEXT = 16 << 20
#: The same for a prompt with images.
MAX_BYTES = 64 << 20
# Bytes that a byte of JSON may take when it is parsed.
_PARSING = 24


class Projection(NamedTuple):
    """The projector that a context uses, and the reservation of its bytes."""

    path: Path
    model: Model
    projector: Projector
    reservation: Reservation


class Prompt(NamedTuple):
    """Either ``tokens``, or ``picture`` and the projection that made it."""

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
    """The prompt of a guest's text with these settings. ``known`` is the context's present
    projection, reused if it fits. Raises ``NnError``, and then reserves nothing."""
    most = min(_MAX_TOKEN_BYTES * (wanted.context.n_ctx or model.n_ctx_train), _MAX_TEXT)
    images = find_picture(text)
    _check(len(text), MAX_BYTES if images else most)
    if wanted.chat:
        try:
            with Reservation(reserve, _PARSING * len(text)):
                text = chat.prompt(model, text, wanted.chat_template, most, reserve, stopped)
        except UnicodeEncodeError as error:
            # JSON can contain half a character.
            raise InvalidArgument(f"a message is not text: {error.reason}") from error
    if wanted.image or images or (wanted.chat and find_picture(text)):
        projection = _projection(graph, model, wanted, known, reserve)
        try:
            # The images in base64, twice, and decoded.
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
