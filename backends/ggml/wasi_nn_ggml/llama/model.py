"""Loaded models: weights and vocabulary, shared by all graphs with the same files and settings."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from wasi_nn.backend.files import Version, descriptor_of, version
from wasi_nn.backend.shared import MadeOnce
from wasi_nn.errors import RuntimeFailure
from wasi_nn_ggml.grammar.matcher import Tokenizer
from wasi_nn_ggml.guard import big_stack, model_files, vocabulary
from wasi_nn_ggml.guard.estimates import Shape
from wasi_nn_ggml.guard.gguf import Contents
from wasi_nn_ggml.guard.vocabulary import Vocabulary
from wasi_nn_ggml.llama.loader import error_log, freed_with, library
from wasi_nn_ggml.llama.metadata import Metadata
from wasi_nn_ggml.settings import RANK, ModelSettings

_Result = TypeVar("_Result")

# enum llama_load_mode
_NO_MMAP, _MMAP, _LOCK, _MMAP_AND_LOCK = 0, 1, 2, 3

# enum llama_token_attr: unknown, unused, control. They are not text.
_SPECIAL = 1 | 2 | 8
_NOTHING = Contents()
# enum llama_vocab_type. BPE are tokenizers that first split a text with regular expressions, UGM
# those that replace characters with a map.
_SPM, _BPE, _UGM = 1, 2, 4
# Upper bounds of the bytes that tokenising takes per byte of text: in general, for tokenizers that
# split, and more for those with a map of characters. (SentencePiece's map replaces a character by
# at most 33 bytes.)
_TOKENISING, _SPLITTING, _REPLACING = 64, 600, 32 * 33


def applicable(settings: ModelSettings, gpu: bool) -> ModelSettings:
    """The settings that have an effect, with ``gpu`` or without. The same model would otherwise be
    loaded once for each choice of a GPU that it does not use."""
    if gpu:
        return settings._replace(gpu=True)
    return ModelSettings()._replace(
        use_mmap=settings.use_mmap,
        use_mlock=settings.use_mlock,
        check_tensors=settings.check_tensors,
    )


class Model:
    """A loaded ``llama_model``. Any number of contexts and threads may share it."""

    def __init__(self, path: str, settings: ModelSettings, contents: Contents = _NOTHING) -> None:
        """Loads the file at ``path``. ``contents`` is the result of ``gguf.check``, for a split
        model of all parts together. Raises ``RuntimeFailure``."""
        native = library()
        self.native = native
        self.settings = settings
        params = native.llama_model_default_params()
        # (An empty list of devices, since llama.cpp also computes on a GPU that has no layers.)
        no_devices = (ctypes.c_void_p * 1)()
        if not settings.gpu:
            params.devices = ctypes.addressof(no_devices)
        params.n_gpu_layers = settings.n_gpu_layers if settings.gpu else 0
        params.main_gpu = settings.main_gpu
        params.split_mode = settings.split_mode
        params.check_tensors = settings.check_tensors
        if settings.use_mmap:
            params.load_mode = _MMAP_AND_LOCK if settings.use_mlock else _MMAP
        else:
            params.load_mode = _LOCK if settings.use_mlock else _NO_MMAP
        if settings.tensor_split:
            count = max(native.llama_max_devices(), len(settings.tensor_split))
            split = (ctypes.c_float * count)(*settings.tensor_split)
            params.tensor_split = ctypes.addressof(split)
        error_log.lines.clear()
        pointer = native.llama_model_load_from_file(os.fsencode(path), params)
        if not pointer:
            raise RuntimeFailure(
                f"llama.cpp rejects the model: {error_log.take('it gives no reason')}"
            )
        self.pointer = int(pointer)
        freed_with(self, native.llama_model_free, self.pointer)
        self.vocab = int(native.llama_model_get_vocab(self.pointer) or 0)
        self.n_vocab = int(native.llama_vocab_n_tokens(self.vocab))
        kind = native.llama_vocab_type(self.vocab)
        self._splits = kind == _BPE
        self.vocabulary = Vocabulary()
        if kind == _SPM:
            texts = (native.llama_vocab_get_text(self.vocab, n) for n in range(self.n_vocab))
            self.vocabulary = vocabulary.read([text or b"" for text in texts])
        #: The most bytes that tokenising takes per byte of text.
        self.tokenising = _SPLITTING if self._splits else _TOKENISING
        if kind == _UGM:
            self.tokenising += _REPLACING
        self.n_ctx_train = int(native.llama_model_n_ctx_train(self.pointer))
        self.n_embd = int(native.llama_model_n_embd(self.pointer))
        if self.n_vocab < 1:
            raise RuntimeFailure("the model has no vocabulary")
        if native.llama_model_has_encoder(self.pointer):
            raise RuntimeFailure("the model is an encoder-decoder, which is not supported")
        with Metadata(native, self.pointer, path) as metadata:
            self._read(metadata, contents.tensors)
        self._pieces: dict[int, bytes] = {}
        self._ends: list[int] | None = None
        self._tokenizer: Tokenizer | None = None
        self._lock = threading.Lock()

    def _read(self, metadata: Metadata, tensors: frozenset[bytes]) -> None:
        native = self.native
        self.shape = Shape.of(native, self.pointer, metadata, self.n_vocab)
        #: The length of an embedding, and of a score.
        self.n_embd_out = metadata.number("embedding_length_out") or self.n_embd
        if hasattr(native, "llama_model_n_embd_out"):
            self.n_embd_out = int(native.llama_model_n_embd_out(self.pointer))
        self.n_cls_out = 1
        if hasattr(native, "llama_model_n_cls_out"):
            self.n_cls_out = int(native.llama_model_n_cls_out(self.pointer))
        #: Whether the model gives scores. Older files have the head but do not say so.
        self.ranks = metadata.number("pooling_type") == RANK or not tensors.isdisjoint(
            (b"cls.weight", b"cls.output.weight")
        )
        #: The number of learned positions; llama.cpp ends the process beyond it. None if positions
        #: are computed.
        self.positions = self.n_ctx_train if b"position_embd.weight" in tensors else None
        #: Whether a token sees only earlier ones, as far as the file says.
        self.causal = metadata.text(f"{metadata.architecture}.attention.causal") != "false"
        #: Whether several texts can share one context: each can be cut back, and the size of the
        #: context changes nothing.
        self.shares = (
            self.causal
            and not native.llama_model_is_recurrent(self.pointer)
            and not native.llama_model_is_hybrid(self.pointer)
            and b"rope_factors_long.weight" not in tensors
            and metadata.text(f"{metadata.architecture}.rope.scaling.type") != "longrope"
        )

    def tokenize(self, text: bytes) -> array[int]:
        """The tokens of a prompt, with the special tokens that the model adds and those that the
        text names (``<|im_start|>``). Takes up to ``tokenising`` bytes of memory per byte of text.
        Raises ``InvalidArgument``, ``PromptTooLong`` and ``RuntimeFailure``."""
        self.vocabulary.check(text)
        room = len(text) + 8
        tokens, count = self._tokenize(text, room)
        if count < -room:
            # A map of characters may have made the text longer.
            tokens, count = self._tokenize(text, -count)
        if count < 0:
            raise RuntimeFailure(f"llama.cpp could not tokenise the prompt ({count})")
        return tokens[:count]

    def _tokenize(self, text: bytes, room: int) -> tuple[array[int], int]:
        tokens = array("i", bytes(4 * room))
        address = tokens.buffer_info()[0]
        tokenize = self.native.llama_tokenize
        count = self.with_stack(
            len(text), lambda: tokenize(self.vocab, text, len(text), address, room, True, True)
        )
        return tokens, int(count)

    def with_stack(self, length: int, function: Callable[[], _Result]) -> _Result:
        """Call ``function``, in which llama.cpp reads a text of ``length`` bytes, with enough
        stack. Returns its result."""
        return big_stack.call(function, length) if self._splits else function()

    def piece(self, token: int) -> bytes:
        """The bytes of a token: maybe part of a character; the name of a special token."""
        piece = self._pieces.get(token)
        if piece is None:
            buffer = ctypes.create_string_buffer(256)
            length = self.native.llama_token_to_piece(
                self.vocab, token, ctypes.addressof(buffer), 256, 0, True
            )
            if length < 0:
                buffer = ctypes.create_string_buffer(-length)
                length = self.native.llama_token_to_piece(
                    self.vocab, token, ctypes.addressof(buffer), -length, 0, True
                )
            piece = self._pieces[token] = buffer.raw[: max(length, 0)]
        return piece

    def is_end(self, token: int) -> bool:
        """Whether a token ends the generation."""
        return bool(self.native.llama_vocab_is_eog(self.vocab, token))

    def ends_of_generation(self) -> list[int]:
        """Every token that ends the generation."""
        if self._ends is None:
            self._ends = [token for token in range(self.n_vocab) if self.is_end(token)]
        return self._ends

    def tokenizer(self) -> Tokenizer:
        """The vocabulary for grammars, made on first use: that takes a second for 100,000 tokens.
        Raises ``UnsupportedOperation`` if llguidance is not installed."""
        with self._lock:
            if self._tokenizer is None:
                attributes = self.native.llama_vocab_get_attr
                tokens = range(self.n_vocab)
                special = [each for each in tokens if attributes(self.vocab, each) & _SPECIAL]
                pieces = [self.piece(each) for each in tokens]
                self._tokenizer = Tokenizer(pieces, special, self.ends_of_generation())
        return self._tokenizer

    def special_tokens(self) -> dict[str, str]:
        """The special tokens by their names in chat templates (``bos_token``, ``eos_token``, …).
        These two are empty if the model lacks them."""
        texts = {"bos_token": "", "eos_token": ""}
        for name in ("bos", "eos", "pad", "sep"):
            token = getattr(self.native, f"llama_vocab_{name}")(self.vocab)
            if 0 <= token < self.n_vocab:
                texts[f"{name}_token"] = self.piece(token).decode("utf-8", "replace")
        return texts

    @property
    def adds_bos(self) -> bool:
        """Whether ``tokenize`` begins with the token for the beginning of a text."""
        return bool(self.native.llama_vocab_get_add_bos(self.vocab))

    def chat_template(self, name: str | None = None) -> str:
        """The model's chat template (Jinja), or its template ``name`` (``tool_use``); empty if it
        has none."""
        wanted = None if name is None else name.encode()
        return (self.native.llama_model_chat_template(self.pointer, wanted) or b"").decode(
            "utf-8", "replace"
        )


_loaded_models: MadeOnce[Model] = MadeOnce()


def _versions(path: Path) -> list[Version]:
    return [version(part) for part in model_files.files(path)]


def _spill(data: memoryview) -> IO[bytes]:
    """A file with a guest's bytes for llama.cpp to map; in memory if the system supports that."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("model.gguf")
        file: IO[bytes] = os.fdopen(descriptor, "wb", buffering=0)
    else:
        file = tempfile.NamedTemporaryFile(suffix=".gguf", buffering=0)  # noqa: SIM115
    at = 0
    while at < len(data):
        at += file.write(data[at:])
    return file


class Source:
    """Where a graph's model comes from: a file, or a guest's bytes in a temporary file."""

    def __init__(self, builder: memoryview | Path) -> None:
        """Raises ``ModelNotFound``."""
        self.path: Path | None = None
        self._file: IO[bytes] | None = None
        if isinstance(builder, Path):
            self.path, self._files = builder, _versions(builder)
            #: About how many bytes a loaded model takes.
            self.size = sum(file.size for file in self._files)
        elif (descriptor := descriptor_of(builder)) is not None:
            self._file = os.fdopen(os.dup(descriptor), "rb", buffering=0)
            self.size = len(builder)
        else:
            self._file, self.size = _spill(builder), len(builder)

    def model(self, settings: ModelSettings) -> Model:
        """The model, loaded with these settings. Raises ``NnError``."""
        if self.path is not None:
            load = partial(self._load, self.path, settings)
            return _loaded_models.get((*self._files, settings), load)
        assert self._file is not None
        contents = model_files.whole(self._file.fileno())
        name = self._file.name
        path = f"/proc/self/fd/{name}" if isinstance(name, int) else name
        return Model(path, settings, contents)

    def _load(self, path: Path, settings: ModelSettings) -> Model:
        model = Model(str(path), settings, model_files.check(path))
        if _versions(path) != self._files:
            raise RuntimeFailure(
                f"{path} was replaced after the graph was loaded: load the graph again"
            )
        return model

    def close(self) -> None:
        """Drop the guest's bytes. Loaded models stay loaded."""
        if self._file is not None:
            self._file.close()
