// tools/browser_tables.py writes this file from the Python host's tables.
export interface Dialect {
  name: string;
  module: string;
  tensorTypes: readonly string[];
  encodings: Record<number, string>;
  errnos: Record<string, number>;
  unboundedZero: boolean;
}
const TYPES_2020 = ["F16", "F32", "U8", "I32"];
const TYPES_2023 = ["F16", "F32", "F64", "U8", "I32", "I64"];
const TYPES_WIT = ["F16", "F32", "F64", "BF16", "U8", "I32", "I64"];
const ENCODINGS = {"0": "openvino", "1": "onnx", "2": "tensorflow", "3": "pytorch", "4": "tensorflowlite", "5": "autodetect", "6": "ggml"};
const ENCODINGS_WAMR = {"0": "openvino", "1": "onnx", "2": "tensorflow", "3": "pytorch", "4": "tensorflowlite", "5": "ggml", "6": "autodetect"};
const ENCODINGS_WASMEDGE = {"0": "openvino", "1": "onnx", "2": "tensorflow", "3": "pytorch", "4": "tensorflowlite", "5": "autodetect", "6": "ggml", "7": "neuralspeed", "8": "burn", "9": "whisper", "10": "mlx", "11": "piper", "12": "chattts", "13": "openvinogenai", "14": "bitnet"};
const ERRNOS_LLM = {"INVALID_ARGUMENT": 1, "INVALID_ENCODING": 2, "MISSING_MEMORY": 3, "BUSY": 4, "RUNTIME_ERROR": 5, "UNSUPPORTED_OPERATION": 6, "TOO_LARGE": 7, "NOT_FOUND": 8, "END_OF_SEQUENCE": 100, "CONTEXT_FULL": 101, "PROMPT_TOO_LONG": 102, "MODEL_NOT_FOUND": 103, "SECURITY": 6};
const ERRNOS = {"INVALID_ARGUMENT": 1, "INVALID_ENCODING": 2, "MISSING_MEMORY": 3, "BUSY": 4, "RUNTIME_ERROR": 5, "UNSUPPORTED_OPERATION": 6, "TOO_LARGE": 7, "NOT_FOUND": 8, "END_OF_SEQUENCE": 5, "CONTEXT_FULL": 5, "PROMPT_TOO_LONG": 7, "MODEL_NOT_FOUND": 8, "SECURITY": 6};
const ERRNOS_2020 = {"INVALID_ARGUMENT": 1, "INVALID_ENCODING": 1, "MISSING_MEMORY": 2, "BUSY": 3, "RUNTIME_ERROR": 1, "UNSUPPORTED_OPERATION": 1, "TOO_LARGE": 1, "NOT_FOUND": 1, "END_OF_SEQUENCE": 1, "CONTEXT_FULL": 1, "PROMPT_TOO_LONG": 1, "MODEL_NOT_FOUND": 1, "SECURITY": 1};
const ERRNOS_WAMR_2_1 = {"INVALID_ARGUMENT": 1, "INVALID_ENCODING": 2, "MISSING_MEMORY": 1, "BUSY": 4, "RUNTIME_ERROR": 4, "UNSUPPORTED_OPERATION": 5, "TOO_LARGE": 6, "NOT_FOUND": 7, "END_OF_SEQUENCE": 100, "CONTEXT_FULL": 101, "PROMPT_TOO_LONG": 102, "MODEL_NOT_FOUND": 103, "SECURITY": 5};
export const FUNCTIONS: Record<string, Record<string, number>> = {"wasi_ephemeral_nn": {"load": 5, "load_by_name": 3, "load_by_name_with_config": 5, "init_execution_context": 2, "set_input": 3, "compute": 1, "get_output": 5, "compute_single": 1, "get_output_single": 5, "fini_single": 1, "unload": 1, "finalize_execution_context": 1}, "wasi_nn": {"load": 4, "load_by_name": 3, "init_execution_context": 2, "set_input": 3, "compute": 1, "get_output": 4}};
export const TENSOR_TYPES: Record<string, number> = {"F16": 2, "F32": 4, "F64": 8, "BF16": 2, "U8": 1, "I32": 4, "I64": 8};
export const TARGETS: readonly string[] = ["cpu", "gpu", "tpu", "auto"];
export const MAX_RANK: number = 64;
export const MAX_BUILDERS: number = 1024;
export const MAX_NAME: number = 4096;
export const MAX_CONFIG: number = 4194304;
export const LIMITS: Record<"memory" | "graphs" | "contexts" | "output" | "model_bytes" | "tensor_bytes" | "wasm_bytes", number | null> = {"memory": null, "graphs": 256, "contexts": 4096, "output": 268435456, "model_bytes": 2147483648, "tensor_bytes": 1073741824, "wasm_bytes": 134217728};
export const WASMEDGE_FUNCTIONS: readonly string[] = ["compute_single", "finalize_execution_context", "fini_single", "get_output_single", "load_by_name_with_config", "unload"];
export const AFTER_2023: readonly string[] = ["finalize_execution_context", "unload"];
export const RECENT: Record<string, readonly [number, number]> = {"rustc": [1, 77], "clang": [18, 1]};
export const ONNX_SECOND_TAGS: readonly number[] = [18, 26, 34, 40, 50, 58, 66, 114, 162, 202];
export const DIALECTS: Record<string, Dialect> = {
  "witx": { name: "witx", module: "wasi_ephemeral_nn", tensorTypes: TYPES_2023, encodings: ENCODINGS, errnos: ERRNOS, unboundedZero: false },
  "witx-2022": { name: "witx-2022", module: "wasi_ephemeral_nn", tensorTypes: TYPES_2020, encodings: ENCODINGS, errnos: ERRNOS, unboundedZero: false },
  "witx-2022-04": { name: "witx-2022-04", module: "wasi_ephemeral_nn", tensorTypes: TYPES_2020, encodings: {"0": "openvino", "1": "tensorflow", "2": "onnx"}, errnos: ERRNOS_2020, unboundedZero: false },
  "witx-2020": { name: "witx-2020", module: "wasi_ephemeral_nn", tensorTypes: TYPES_2020, encodings: {"0": "openvino", "1": "onnx", "2": "tensorflow", "3": "pytorch"}, errnos: ERRNOS_2020, unboundedZero: false },
  "wasmedge": { name: "wasmedge", module: "wasi_ephemeral_nn", tensorTypes: TYPES_2023, encodings: ENCODINGS_WASMEDGE, errnos: ERRNOS_LLM, unboundedZero: true },
  "wasmedge-0.14": { name: "wasmedge-0.14", module: "wasi_ephemeral_nn", tensorTypes: TYPES_2020, encodings: ENCODINGS_WASMEDGE, errnos: ERRNOS_LLM, unboundedZero: true },
  "wasmedge-2023-12": { name: "wasmedge-2023-12", module: "wasi_ephemeral_nn", tensorTypes: TYPES_2020, encodings: ENCODINGS_WASMEDGE, errnos: {"INVALID_ARGUMENT": 1, "INVALID_ENCODING": 2, "MISSING_MEMORY": 3, "BUSY": 4, "RUNTIME_ERROR": 5, "UNSUPPORTED_OPERATION": 6, "TOO_LARGE": 7, "NOT_FOUND": 8, "END_OF_SEQUENCE": 9, "CONTEXT_FULL": 10, "PROMPT_TOO_LONG": 102, "MODEL_NOT_FOUND": 103, "SECURITY": 6}, unboundedZero: true },
  "wasmedge-2022": { name: "wasmedge-2022", module: "wasi_ephemeral_nn", tensorTypes: TYPES_2020, encodings: {"0": "openvino", "1": "pytorch", "2": "tensorflow", "3": "tensorflowlite"}, errnos: ERRNOS, unboundedZero: false },
  "wamr": { name: "wamr", module: "wasi_ephemeral_nn", tensorTypes: TYPES_2023, encodings: ENCODINGS_WAMR, errnos: ERRNOS_LLM, unboundedZero: false },
  "wamr-2.1": { name: "wamr-2.1", module: "wasi_ephemeral_nn", tensorTypes: TYPES_WIT, encodings: ENCODINGS_WAMR, errnos: ERRNOS_WAMR_2_1, unboundedZero: false },
  "wamr-legacy": { name: "wamr-legacy", module: "wasi_nn", tensorTypes: TYPES_2020, encodings: ENCODINGS_WAMR, errnos: ERRNOS_LLM, unboundedZero: false },
};
