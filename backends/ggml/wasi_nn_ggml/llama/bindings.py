"""The C structures and functions of llama.h and mtmd.h that this backend uses.

llama.h promises no stable layout, and a wrong offset would corrupt memory. So the default
parameters that a library returns are compared with the values here; one that differs is rejected.
Layouts: llama.cpp's include/llama.h and tools/mtmd/mtmd.h of autumn 2026.
"""

from __future__ import annotations

import ctypes as c
from typing import Any

Pointer = c.c_void_p
#: Called by llama.cpp with a level, a text and user data.
LogCallback = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)

# A newer library with one more field would write past a structure before the check can see it, so
# each ends with spare bytes. Passing more bytes by value than a function reads is harmless where
# large structures travel on the stack (System V x86-64) or by reference (AArch64, Windows).
_SPARE = 256


class ModelParams(c.Structure):
    """``struct llama_model_params``."""

    _fields_ = (
        ("devices", Pointer),
        ("tensor_buft_overrides", Pointer),
        ("n_gpu_layers", c.c_int32),
        ("split_mode", c.c_int),
        ("load_mode", c.c_int),
        ("lazy_mode", c.c_int),
        ("main_gpu", c.c_int32),
        ("tensor_split", Pointer),
        ("progress_callback", Pointer),
        ("progress_callback_user_data", Pointer),
        ("kv_overrides", Pointer),
        ("vocab_only", c.c_bool),
        ("check_tensors", c.c_bool),
        ("use_extra_bufts", c.c_bool),
        ("no_host", c.c_bool),
        ("no_alloc", c.c_bool),
        ("load_mtp", c.c_bool),
        ("_spare", c.c_byte * _SPARE),
    )


_HEAD = (
    ("n_ctx", c.c_uint32),
    ("n_batch", c.c_uint32),
    ("n_ubatch", c.c_uint32),
    ("n_seq_max", c.c_uint32),
    ("n_rs_seq", c.c_uint32),
    ("n_outputs_max", c.c_uint32),
    ("n_outputs_max_per_seq", c.c_uint32),
    ("n_threads", c.c_int32),
    ("n_threads_batch", c.c_int32),
    ("ctx_type", c.c_int),
    ("rope_scaling_type", c.c_int),
    ("pooling_type", c.c_int),
    ("attention_type", c.c_int),
    ("flash_attn_type", c.c_int),
    ("rope_freq_base", c.c_float),
    ("rope_freq_scale", c.c_float),
    ("yarn_ext_factor", c.c_float),
    ("yarn_attn_factor", c.c_float),
    ("yarn_beta_fast", c.c_float),
    ("yarn_beta_slow", c.c_float),
    ("yarn_orig_ctx", c.c_uint32),
    ("defrag_thold", c.c_float),
    ("cb_eval", Pointer),
    ("cb_eval_user_data", Pointer),
    ("type_k", c.c_int),
    ("type_v", c.c_int),
)
_TAIL = (
    ("embeddings", c.c_bool),
    ("offload_kqv", c.c_bool),
    ("no_perf", c.c_bool),
    ("op_offload", c.c_bool),
    ("swa_full", c.c_bool),
    ("kv_unified", c.c_bool),
    ("samplers", Pointer),
    ("n_samplers", c.c_size_t),
    ("ctx_other", Pointer),
    ("_spare", c.c_byte * _SPARE),
)


class ContextParams(c.Structure):
    """``struct llama_context_params`` of llama.cpp 0.5 (llama-cpp-python 0.3.36)."""

    _fields_ = (*_HEAD, ("_pointers", Pointer * 2), *_TAIL)


class ContextParams06(c.Structure):
    """The same structure in llama.cpp 0.6 (xllamacpp 2026.10), with one more pointer beside the two
    of the abort callback. This backend sets none of them."""

    _fields_ = (*_HEAD, ("_pointers", Pointer * 3), *_TAIL)


#: The known layouts of the context parameters, tried in turn.
CONTEXT_PARAMS: tuple[type[c.Structure], ...] = (ContextParams, ContextParams06)


class Batch(c.Structure):
    """``struct llama_batch``. If only ``token`` is set, llama.cpp continues the positions, uses
    sequence 0, and computes logits for the last token. ``seq_id`` has a pointer for each token."""

    _fields_ = (
        ("n_tokens", c.c_int32),
        ("token", Pointer),
        ("embd", Pointer),
        ("pos", Pointer),
        ("n_seq_id", Pointer),
        ("seq_id", Pointer),
        ("logits", Pointer),
    )


class TokenData(c.Structure):
    """``struct llama_token_data``."""

    _fields_ = (("id", c.c_int32), ("logit", c.c_float), ("p", c.c_float))


class TokenDataArray(c.Structure):
    """``struct llama_token_data_array``."""

    _fields_ = (
        ("data", Pointer),
        ("size", c.c_size_t),
        ("selected", c.c_int64),
        ("sorted", c.c_bool),
    )


class LogitBias(c.Structure):
    """``struct llama_logit_bias``."""

    _fields_ = (("token", c.c_int32), ("bias", c.c_float))


class ChatMessage(c.Structure):
    """``struct llama_chat_message``."""

    _fields_ = (("role", c.c_char_p), ("content", c.c_char_p))


class ChainParams(c.Structure):
    """``struct llama_sampler_chain_params``. It travels in a register, so it has no spare bytes."""

    _fields_ = (("no_perf", c.c_bool),)


class VisionParams(c.Structure):
    """``struct mtmd_context_params``."""

    _fields_ = (
        ("use_gpu", c.c_bool),
        ("device", Pointer),
        ("print_timings", c.c_bool),
        ("n_threads", c.c_int),
        ("image_marker", c.c_char_p),
        ("media_marker", c.c_char_p),
        ("flash_attn_type", c.c_int),
        ("warmup", c.c_bool),
        ("image_min_tokens", c.c_int),
        ("image_max_tokens", c.c_int),
        ("cb_eval", Pointer),
        ("cb_eval_user_data", Pointer),
        ("batch_max_tokens", c.c_int32),
        ("progress_callback", Pointer),
        ("progress_callback_user_data", Pointer),
        ("_spare", c.c_byte * _SPARE),
    )


class VisionText(c.Structure):
    """``struct mtmd_input_text``."""

    _fields_ = (
        ("text", c.c_char_p),
        ("text_len", c.c_size_t),
        ("add_special", c.c_bool),
        ("parse_special", c.c_bool),
    )


class MediaOptions(c.Structure):
    """``struct mtmd_helper_init_opt``: how videos are split into images."""

    _fields_ = (
        ("fps_target", c.c_float),
        ("ffmpeg_bin_dir", c.c_char_p),
        ("timestamp_interval_ms", c.c_int64),
    )


class MediaBitmap(c.Structure):
    """``struct mtmd_helper_bitmap_wrapper``."""

    _fields_ = (("bitmap", Pointer), ("video", Pointer))


_i32, _u32, _f32, _size, _text, _bool = (
    c.c_int32, c.c_uint32, c.c_float, c.c_size_t, c.c_char_p, c.c_bool,
)  # fmt: skip

#: Name: (result, parameters).
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (LogCallback, Pointer)),
    "llama_max_devices": (_size, ()),
    "llama_supports_gpu_offload": (_bool, ()),
    "llama_model_default_params": (ModelParams, ()),
    "llama_model_load_from_file": (Pointer, (_text, ModelParams)),
    "llama_model_free": (None, (Pointer,)),
    "llama_model_get_vocab": (Pointer, (Pointer,)),
    "llama_model_has_encoder": (_bool, (Pointer,)),
    "llama_model_is_recurrent": (_bool, (Pointer,)),
    "llama_model_is_hybrid": (_bool, (Pointer,)),
    "llama_model_n_ctx_train": (_i32, (Pointer,)),
    "llama_model_n_embd": (_i32, (Pointer,)),
    "llama_model_n_head": (_i32, (Pointer,)),
    "llama_model_n_head_kv": (_i32, (Pointer,)),
    "llama_model_n_layer": (_i32, (Pointer,)),
    "llama_model_meta_val_str": (_i32, (Pointer, _text, Pointer, _size)),
    "llama_model_chat_template": (_text, (Pointer, _text)),
    "llama_vocab_bos": (_i32, (Pointer,)),
    "llama_vocab_eos": (_i32, (Pointer,)),
    "llama_vocab_pad": (_i32, (Pointer,)),
    "llama_vocab_sep": (_i32, (Pointer,)),
    "llama_vocab_get_add_bos": (_bool, (Pointer,)),
    "llama_chat_apply_template": (
        _i32, (_text, c.POINTER(ChatMessage), _size, _bool, Pointer, _i32),
    ),
    "llama_vocab_get_text": (_text, (Pointer, _i32)),
    "llama_vocab_n_tokens": (_i32, (Pointer,)),
    "llama_vocab_type": (_i32, (Pointer,)),
    "llama_vocab_is_eog": (_bool, (Pointer, _i32)),
    "llama_vocab_get_attr": (_i32, (Pointer, _i32)),
    "llama_tokenize": (_i32, (Pointer, _text, _i32, Pointer, _i32, _bool, _bool)),
    "llama_token_to_piece": (_i32, (Pointer, _i32, Pointer, _i32, _i32, _bool)),
    "llama_free": (None, (Pointer,)),
    "llama_n_ctx": (_u32, (Pointer,)),
    "llama_n_ubatch": (_u32, (Pointer,)),
    "llama_set_abort_callback": (None, (Pointer, Pointer, Pointer)),
    "llama_get_memory": (Pointer, (Pointer,)),
    "llama_memory_clear": (None, (Pointer, _bool)),
    "llama_memory_seq_rm": (_bool, (Pointer, _i32, _i32, _i32)),
    "llama_memory_seq_cp": (None, (Pointer, _i32, _i32, _i32, _i32)),
    "llama_memory_seq_pos_min": (_i32, (Pointer, _i32)),
    "llama_state_seq_get_size": (_size, (Pointer, _i32)),
    "llama_state_seq_get_data": (_size, (Pointer, Pointer, _size, _i32)),
    "llama_state_seq_set_data": (_size, (Pointer, Pointer, _size, _i32)),
    "llama_set_n_threads": (None, (Pointer, _i32, _i32)),
    "llama_decode": (_i32, (Pointer, Batch)),
    "llama_get_logits_ith": (Pointer, (Pointer, _i32)),
    "llama_get_embeddings_ith": (Pointer, (Pointer, _i32)),
    "llama_get_embeddings_seq": (Pointer, (Pointer, _i32)),
    "llama_pooling_type": (c.c_int, (Pointer,)),
    "llama_sampler_chain_default_params": (ChainParams, ()),
    "llama_sampler_chain_init": (Pointer, (ChainParams,)),
    "llama_sampler_chain_add": (None, (Pointer, Pointer)),
    "llama_sampler_sample": (_i32, (Pointer, Pointer, _i32)),
    "llama_sampler_apply": (None, (Pointer, c.POINTER(TokenDataArray))),
    "llama_sampler_accept": (None, (Pointer, _i32)),
    "llama_sampler_reset": (None, (Pointer,)),
    "llama_sampler_free": (None, (Pointer,)),
    "llama_sampler_init_greedy": (Pointer, ()),
    "llama_sampler_init_dist": (Pointer, (_u32,)),
    "llama_sampler_init_top_k": (Pointer, (_i32,)),
    "llama_sampler_init_top_p": (Pointer, (_f32, _size)),
    "llama_sampler_init_min_p": (Pointer, (_f32, _size)),
    "llama_sampler_init_typical": (Pointer, (_f32, _size)),
    "llama_sampler_init_temp": (Pointer, (_f32,)),
    "llama_sampler_init_temp_ext": (Pointer, (_f32, _f32, _f32)),
    "llama_sampler_init_xtc": (Pointer, (_f32, _f32, _size, _u32)),
    "llama_sampler_init_mirostat": (Pointer, (_i32, _u32, _f32, _f32, _i32)),
    "llama_sampler_init_mirostat_v2": (Pointer, (_u32, _f32, _f32)),
    "llama_sampler_init_penalties": (Pointer, (_i32, _i32, _f32, _f32, _f32)),
    "llama_sampler_init_dry": (
        Pointer, (Pointer, _f32, _f32, _i32, _i32, c.POINTER(_text), _size),
    ),
    "llama_sampler_init_logit_bias": (Pointer, (_i32, _i32, c.POINTER(LogitBias))),
}  # fmt: skip


class HeaderParams(c.Structure):
    """``struct gguf_init_params``."""

    _fields_ = (("no_alloc", c.c_bool), ("context", Pointer))


#: Functions that a library may lack; their callers handle that. Those of gguf.h are in a library
#: beside llama's, where not every system finds them.
OPTIONAL_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_model_n_embd_out": (_i32, (Pointer,)),
    "llama_model_n_cls_out": (_u32, (Pointer,)),
    "llama_get_causal_attn": (_bool, (Pointer,)),
    "gguf_init_from_file": (Pointer, (_text, HeaderParams)),
    "gguf_free": (None, (Pointer,)),
    "gguf_find_key": (c.c_int64, (Pointer, _text)),
    "gguf_get_kv_type": (c.c_int, (Pointer, c.c_int64)),
    "gguf_get_arr_type": (c.c_int, (Pointer, c.c_int64)),
    "gguf_get_arr_n": (_size, (Pointer, c.c_int64)),
    "gguf_get_arr_data": (Pointer, (Pointer, c.c_int64)),
}


def context_functions(params: type[c.Structure]) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """The functions whose types depend on the layout of the context parameters."""
    return {
        "llama_context_default_params": (params, ()),
        "llama_init_from_model": (Pointer, (Pointer, params)),
    }


#: Functions for images. A library may lack all of them.
VISION_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "mtmd_helper_log_set": (None, (LogCallback, Pointer)),
    "mtmd_context_params_default": (VisionParams, ()),
    "mtmd_init_from_file": (Pointer, (_text, Pointer, VisionParams)),
    "mtmd_free": (None, (Pointer,)),
    "mtmd_support_vision": (_bool, (Pointer,)),
    "mtmd_helper_init_opt_default": (MediaOptions, ()),
    "mtmd_helper_bitmap_init_from_buf": (
        MediaBitmap, (Pointer, _text, _size, _bool, MediaOptions),
    ),
    "mtmd_helper_video_free": (None, (Pointer,)),
    "mtmd_bitmap_free": (None, (Pointer,)),
    "mtmd_input_chunks_init": (Pointer, ()),
    "mtmd_input_chunks_free": (None, (Pointer,)),
    "mtmd_input_chunks_size": (_size, (Pointer,)),
    "mtmd_input_chunks_get": (Pointer, (Pointer, _size)),
    "mtmd_input_chunk_get_type": (c.c_int, (Pointer,)),
    "mtmd_input_chunk_get_n_tokens": (_size, (Pointer,)),
    "mtmd_tokenize": (
        _i32, (Pointer, Pointer, c.POINTER(VisionText), c.POINTER(Pointer), _size),
    ),
    "mtmd_helper_get_n_tokens": (_size, (Pointer,)),
    "mtmd_helper_get_n_pos": (_i32, (Pointer,)),
    "mtmd_helper_eval_chunks": (
        _i32, (Pointer, Pointer, Pointer, _i32, _i32, _i32, _bool, c.POINTER(_i32)),
    ),
}  # fmt: skip

_MODEL = {
    "devices": None, "tensor_buft_overrides": None, "n_gpu_layers": -1, "split_mode": 1,
    "load_mode": -1, "lazy_mode": 1, "main_gpu": 0, "tensor_split": None, "kv_overrides": None,
    "vocab_only": False, "check_tensors": False, "use_extra_bufts": True, "no_host": False,
    "no_alloc": False,
}  # fmt: skip
_CONTEXT = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_threads": 4,
    "n_threads_batch": 4, "rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1,
    "flash_attn_type": -1, "rope_freq_base": 0.0, "yarn_ext_factor": -1.0, "type_k": 1,
    "type_v": 1, "embeddings": False, "offload_kqv": True,
    "samplers": None, "n_samplers": 0, "ctx_other": None,
}  # fmt: skip
_VISION = {
    "use_gpu": True, "device": None, "n_threads": 4, "flash_attn_type": -1, "warmup": True,
    "image_min_tokens": -1, "image_max_tokens": -1, "cb_eval": None, "batch_max_tokens": 1024,
    "progress_callback": None,
}  # fmt: skip


_EXPECTED: dict[type[c.Structure], tuple[str, dict[str, Any]]] = {
    ModelParams: ("llama_model_params", _MODEL),
    VisionParams: ("mtmd_context_params", _VISION),
    **dict.fromkeys(CONTEXT_PARAMS, ("llama_context_params", _CONTEXT)),
}


def mismatch(params: c.Structure) -> str | None:
    """How a library's default parameters differ from the layout here; None if they do not."""
    name, expected = _EXPECTED[type(params)]
    for field, value in expected.items():
        found = getattr(params, field)
        if found != value:
            return f"{name}.{field} is {found!r} where {value!r} was expected"
    return None
