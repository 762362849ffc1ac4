/* WasmEdge's additions to the core ABI: per-load config, streaming, and giving handles back. */
#ifndef WASI_NN_EXT_H
#define WASI_NN_EXT_H

#include "wasi_nn.h"

NN_IMPORT("load_by_name_with_config")
nn_errno nn_load_by_name_with_config(const char *name, uint32_t length, const char *config,
                                     uint32_t config_length, nn_graph *graph);
NN_IMPORT("compute_single")
nn_errno nn_compute_single(nn_context context);
NN_IMPORT("get_output_single")
nn_errno nn_get_output_single(nn_context context, uint32_t index, void *buffer, uint32_t size,
                              uint32_t *written);
NN_IMPORT("fini_single")
nn_errno nn_fini_single(nn_context context);
NN_IMPORT("unload")
nn_errno nn_unload(nn_graph graph);
NN_IMPORT("finalize_execution_context")
nn_errno nn_finalize_execution_context(nn_context context);

#endif
