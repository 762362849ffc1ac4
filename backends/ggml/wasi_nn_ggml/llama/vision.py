"""Images in prompts, through llama.cpp's mtmd and a projector model (``mmproj``).

A prompt has an image as ``<img src="data:image/png;base64,…">``, or as ``<image>`` for the file of
the config's ``image`` (WasmEdge's conventions). PNG and JPEG are accepted. mtmd's decoder knows
more formats; they are not offered, because no guest needs them.
"""

from __future__ import annotations

import base64
import binascii
import ctypes
import re
import threading
from pathlib import Path

from wasi_nn.backend import Reserve
from wasi_nn.errors import (
    InvalidArgument,
    PromptTooLong,
    RuntimeFailure,
    UnsupportedOperation,
)
from wasi_nn_ggml.guard.model_files import read_header
from wasi_nn_ggml.llama.bindings import VisionText
from wasi_nn_ggml.llama.kv_cache import KvCache
from wasi_nn_ggml.llama.loader import error_log, freed_with
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.reservation import Reservation
from wasi_nn_ggml.settings import ContextSettings

MARKER = "<image>"
INLINE = re.compile(r'<img src="data:image/[a-z+.-]+;base64,([A-Za-z0-9+/=\s]*)"\s*/?>')
# Of one prompt, all images together.
_MAX_PIXELS = 64 << 20
_MAX_IMAGES = 64
# Models that take any shape enlarge a narrow image many times.
_MAX_RATIO = 200
# Bytes per pixel: while mtmd reads the prompt, and in addition while it decodes and resizes an
# image (most for a PNG with four channels of 16 bits).
_PIXEL_BYTES, _DECODING_BYTES = 3, 20
# Bytes per token of an image, which becomes floats: the most of all models that mtmd knows. Tokens
# of a text are numbers in a list that may have grown to twice their size.
_TOKEN_BYTES, _TEXT_BYTES = 48 << 10, 8
# ``MTMD_INPUT_CHUNK_TYPE_TEXT``
_TEXT = 0
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"


def find_picture(prompt: str) -> bool:
    """Whether a prompt contains an image."""
    return INLINE.search(prompt) is not None


def check_projector(path: Path) -> None:
    """Raise ``RuntimeFailure`` for a file that is not a valid projector, and ``ModelNotFound``."""
    contents = read_header(path)
    if contents.is_projector and contents.parts > 1:
        raise RuntimeFailure(
            f"{path.name} is part {contents.part + 1} of {contents.parts} of a projector, which "
            "must be one file: join its parts with llama-gguf-split --merge"
        )
    if contents.part or contents.parts > 1:
        raise RuntimeFailure(
            f"{path.name} is part {contents.part + 1} of {contents.parts} of a split model, not a "
            "projector: give only the first part, the others are found beside it"
        )
    if not contents.is_projector:
        what = contents.other or f"a model of the architecture {contents.architecture!r}"
        raise RuntimeFailure(
            f"{path.name} is {what}. A second file must be a projector for images (clip)"
        )


class Projector:
    """A loaded projector for one model. It takes one image at a time."""

    def __init__(self, model: Model, path: Path, settings: ContextSettings) -> None:
        native = model.native
        if native.no_vision is not None:
            raise UnsupportedOperation(f"images are not supported: {native.no_vision}")
        check_projector(path)
        params = native.mtmd_context_params_default()
        params.use_gpu = model.settings.gpu
        params.media_marker = MARKER.encode()
        params.print_timings = False
        if settings.threads > 0:
            params.n_threads = settings.threads
        error_log.lines.clear()
        projector = native.mtmd_init_from_file(str(path).encode(), model.pointer, params)
        if not projector:
            raise RuntimeFailure(
                f"llama.cpp rejects the projector: {error_log.take('it gives no reason')}"
            )
        self.native = native
        self.model = model
        self.pointer = int(projector)
        self.lock = threading.Lock()
        freed_with(self, native.mtmd_free, self.pointer, model)
        if not native.mtmd_support_vision(self.pointer):
            raise RuntimeFailure("the projector is not for images")

    def read(self, prompt: str, image: bytes | None, most: int, reserve: Reserve) -> Picture:
        """Tokenise a prompt with its images: those inside it, or ``image``. Its text may have
        ``most`` bytes; the memory is counted with ``reserve``. Raises ``InvalidArgument``,
        ``PromptTooLong`` and ``RuntimeFailure``."""
        images = [_decode(match) for match in INLINE.findall(prompt)]
        if images:
            prompt = INLINE.sub(MARKER, prompt)
        elif image is not None:
            images = [image]
        markers = prompt.count(MARKER)
        if markers != len(images):
            raise InvalidArgument(
                f"the prompt has {markers} image markers for {len(images)} images"
            )
        text = prompt.encode("utf-8")
        if len(text) > most:
            raise PromptTooLong(
                f"the text beside the images has {len(text)} bytes: at most {most} fit the context"
            )
        self.model.vocabulary.check(text)
        size = _decoding_bytes(images) + self.model.tokenising * len(text)
        with Reservation(reserve, size), self.lock:
            return Picture(self, text, images, reserve)


class Picture:
    """A tokenised prompt of text and images."""

    def __init__(
        self,
        projector: Projector,
        data: bytes,
        images: list[bytes],
        reserve: Reserve,
    ) -> None:
        native = projector.native
        self._projector = projector
        self._chunks = native.mtmd_input_chunks_init()
        freed_with(self, native.mtmd_input_chunks_free, self._chunks)
        bitmaps: list[int] = []
        try:
            for image in images:
                bitmaps.append(_bitmap(projector, image))
            text = VisionText(data, len(data), True, True)
            array = (ctypes.c_void_p * len(bitmaps))(*bitmaps)
            status = projector.model.with_stack(
                len(data),
                lambda: native.mtmd_tokenize(
                    projector.pointer, self._chunks, ctypes.byref(text), array, len(bitmaps)
                ),
            )
        finally:
            for bitmap in bitmaps:
                native.mtmd_bitmap_free(bitmap)
        if status:
            raise InvalidArgument(f"mtmd rejects the image ({status})")
        self.n_tokens = int(native.mtmd_helper_get_n_tokens(self._chunks))
        text_tokens = self._text_tokens()
        #: The memory of the tokenised prompt. Whoever drops the prompt releases it.
        self.reservation = Reservation(
            reserve, _TEXT_BYTES * text_tokens + _TOKEN_BYTES * (self.n_tokens - text_tokens)
        )

    def _text_tokens(self) -> int:
        """The number of tokens that are text."""
        native, tokens = self._projector.native, 0
        for at in range(native.mtmd_input_chunks_size(self._chunks)):
            chunk = native.mtmd_input_chunks_get(self._chunks, at)
            if native.mtmd_input_chunk_get_type(chunk) == _TEXT:
                tokens += native.mtmd_input_chunk_get_n_tokens(chunk)
        return tokens

    def evaluate(self, cache: KvCache) -> None:
        """Clear the cache and decode text and images into it. Raises ``RuntimeFailure``."""
        native = self._projector.native
        cache.clear()
        after = ctypes.c_int32()
        with self._projector.lock:
            status = native.mtmd_helper_eval_chunks(
                self._projector.pointer,
                cache.context,
                self._chunks,
                0,
                0,
                cache.n_batch,
                True,
                ctypes.byref(after),
            )
        if status:
            cache.clear()
            raise RuntimeFailure(
                f"llama.cpp could not evaluate the image: {error_log.take(f'status {status}')}"
            )
        cache.mark_filled(after.value)


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(re.sub(r"\s", "", text), validate=True)
    except binascii.Error as error:
        raise InvalidArgument(f"the prompt's image is not base64: {error}") from error


def _decoding_bytes(images: list[bytes]) -> int:
    """The most bytes that reading the images takes. Raises ``InvalidArgument`` for data that is not
    an image, or is too large, before any image is decoded."""
    if len(images) > _MAX_IMAGES:
        raise InvalidArgument(
            f"{len(images)} images in a prompt: at most {_MAX_IMAGES} are allowed"
        )
    sizes = []
    for image in images:
        width, height = _dimensions(image)
        pixels = width * height
        if not pixels or max(width, height) > _MAX_RATIO * min(width, height):
            raise InvalidArgument(
                f"an image has {width} x {height} pixels: one side may be at most {_MAX_RATIO} "
                "times the other"
            )
        sizes.append(pixels)
    if sum(sizes) > _MAX_PIXELS:
        raise InvalidArgument(
            f"the images of a prompt have {sum(sizes)} pixels: at most {_MAX_PIXELS} are allowed"
        )
    return _PIXEL_BYTES * sum(sizes) + _DECODING_BYTES * max(sizes, default=0)


def _bitmap(projector: Projector, image: bytes) -> int:
    native = projector.native
    decoded = native.mtmd_helper_bitmap_init_from_buf(
        projector.pointer, image, len(image), False, native.mtmd_helper_init_opt_default()
    )
    if decoded.video:
        native.mtmd_helper_video_free(decoded.video)
    if not decoded.bitmap:
        raise InvalidArgument("the image is damaged")
    return int(decoded.bitmap)


def _dimensions(image: bytes) -> tuple[int, int]:
    """The width and height in an image's header, read as the decoder reads them."""
    if image.startswith(_PNG) and image[12:16] == b"IHDR" and len(image) >= 24:
        return int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")
    if image.startswith(_JPEG):
        at = 2
        while at + 9 <= len(image) and image[at] == 0xFF:
            kind = image[at + 1]
            if kind == 0xFF:
                # A marker may be preceded by fill bytes.
                at += 1
                continue
            if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
                height = int.from_bytes(image[at + 5 : at + 7], "big")
                return int.from_bytes(image[at + 7 : at + 9], "big"), height
            at += 2 + int.from_bytes(image[at + 2 : at + 4], "big")
    raise InvalidArgument("the image is neither PNG nor JPEG")
