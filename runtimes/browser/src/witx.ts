import { Abi } from "./abi.js";
import { parseConfig } from "./config.js";
import { NNError } from "./errors.js";
import type { Later } from "./service.js";
import { MAX_CONFIG, MAX_NAME, MAX_RANK } from "./tables.js";

/** `wasi_ephemeral_nn`: the specification's functions and WasmEdge's. A tensor is 20 bytes, {u32 dims, u32
 * rank, u8 type, 3 bytes of padding, u32 data, u32 length}. */
export class Witx extends Abi {
  load(builders: number, count: number, encoding: number, target: number, out: number): Later<void> {
    this.memory.check(out, 4);
    return this.openGraph(builders, count, encoding, target, out);
  }

  load_by_name_with_config(name: number, length: number, config: number, configLength: number, out: number): Later<void> {
    this.memory.check(out, 4);
    const text = this.memory.text(name, length, "name", MAX_NAME);
    return this.give(out, this.session.loadByName(text, parseConfig(this.memory.text(config, configLength, "config", MAX_CONFIG))));
  }

  set_input(handle: number, index: number, tensor: number): void {
    const head = new DataView(this.memory.read(tensor, 20).buffer);
    const rank = head.getUint32(4, true);
    if (rank > MAX_RANK) throw new NNError("INVALID_ARGUMENT", `the tensor has ${rank} dimensions: at most ${MAX_RANK} are allowed`);
    const dims = rank === 0 ? [] : this.memory.u32(head.getUint32(0, true), rank);
    const length = head.getUint32(16, true);
    const data = length === 0 ? new Uint8Array() : this.memory.view(head.getUint32(12, true), length);
    const context = this.session.context(handle);
    const number = head.getUint8(8);
    const type = context.info.untypedBytes ? this.negotiation.byteType(number) : this.negotiation.tensorType(number, dims, length);
    this.session.setInput(context, index, type, dims, data);
    this.negotiation.commit();
  }

  get_output(handle: number, index: number, buffer: number, size: number, out: number): void {
    this.write("outputs", handle, index, buffer, size, out);
  }

  get_output_single(handle: number, index: number, buffer: number, size: number, out: number): void {
    this.write("pieces", handle, index, buffer, size, out);
  }

  compute_single(context: number): Later<void> {
    return this.session.computeSingle(context);
  }

  fini_single(context: number): Later<void> {
    return this.session.finiSingle(context);
  }

  unload(graph: number): Later<void> {
    return this.session.unload(graph);
  }

  finalize_execution_context(context: number): Later<void> {
    return this.session.close(context);
  }

  /** Writes an output and its length. Of an output that does not fit, it writes the length alone. */
  private write(from: "outputs" | "pieces", handle: number, index: number, buffer: number, size: number, out: number): void {
    this.memory.check(buffer, size);
    this.memory.check(out, 4);
    const context = this.session.context(handle);
    const { data } = this.session.output(context, from, index);
    const unbounded = size === 0 && this.negotiation.dialect.unboundedZero && context.info.untypedBytes;
    if (data.length > size && !unbounded) {
      this.memory.writeU32(out, data.length);
      throw new NNError("TOO_LARGE", `the output takes ${data.length} bytes, the buffer has ${size}`);
    }
    this.memory.write(buffer, data);
    this.memory.writeU32(out, data.length);
  }
}
