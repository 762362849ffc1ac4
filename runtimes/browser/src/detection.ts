// The rules are those of the Python host's detection.py, and tests/detection.json has what it finds.
import { Reader, sections } from "./wasm.js";
import { AFTER_2023, DIALECTS, RECENT, WASMEDGE_FUNCTIONS, type Dialect } from "./tables.js";

const EPHEMERAL = "wasi_ephemeral_nn";
const LEGACY = "wasi_nn";

/** The candidates for a guest's dialect, the most likely one first. A guest that imports no function of
 * wasi-nn has none. */
export function detectDialect(module: WebAssembly.Module, bytes: Uint8Array): Dialect[] {
  const imported = (from: string) => WebAssembly.Module.imports(module).filter((item) => item.module === from).map((item) => item.name);
  const names = imported(EPHEMERAL);
  if (names.length === 0) return imported(LEGACY).length === 0 ? [] : of("wamr-legacy");
  const custom = (name: string) => WebAssembly.Module.customSections(module, name)[0];
  const extensions = names.filter((name) => WASMEDGE_FUNCTIONS.includes(name));
  const data = latin1(sections(bytes).find(({ id }) => id === 11)?.content);
  const crate = latin1(custom("name")).includes("wasmedge_wasi_nn");
  const newer = data.includes("PromptTooLong");
  if ((extensions.length > 0 || crate) && !newer && !names.some((name) => AFTER_2023.includes(name))) {
    const streams = extensions.includes("compute_single") && !extensions.includes("fini_single");
    if ((streams && !isRecent(custom("producers"))) || (crate && data.includes("EndOfSequence")))
      return of("wasmedge-2023-12", "wasmedge", "wasmedge-0.14");
  }
  if (extensions.length > 0 || crate || (newer && data.includes("EndOfSequence"))) return of("wasmedge", "wasmedge-0.14");
  if (latin1(custom("producers")).includes("AssemblyScript") || custom("sourceMappingURL")?.byteLength) return of("witx-2022", "witx");
  return of("witx", "witx-2022", "wamr-2.1");
}

const of = (...names: string[]) => names.map((name) => DIALECTS[name]!);
const latin1 = (bytes: ArrayBuffer | Uint8Array | undefined) => new TextDecoder("latin1").decode(bytes);

/** Whether the section `producers` names a compiler that is newer than the guests of December 2023. */
function isRecent(producers: ArrayBuffer | undefined): boolean {
  if (producers === undefined) return false;
  const tools = new Map<string, string>();
  const reader = new Reader(new Uint8Array(producers));
  try {
    for (let fields = reader.number(); fields > 0; fields--) {
      reader.name();
      for (let count = reader.number(); count > 0; count--) tools.set(reader.name(), reader.name());
    }
  } catch {
    // A damaged section tells what was read of it.
  }
  for (const [name, [major, minor]] of Object.entries(RECENT)) {
    const version = tools.get(name);
    if (version === undefined) continue;
    const numbers = /^(\d{1,9})\.(\d{1,9})/.exec(version)?.slice(1).map(Number);
    return numbers !== undefined && (numbers[0]! > major || (numbers[0] === major && numbers[1]! >= minor));
  }
  return false;
}
