import { Abi } from "./abi.js";
import { NNError } from "./errors.js";
import { byteSize } from "./memory.js";
import type { Later } from "./service.js";
import { MAX_RANK } from "./tables.js";

const ELEMENT = 4;

/** WAMR's `wasi_nn`. `load` takes a pointer to {u32 builders, u32 count}. A tensor is 12 bytes, {u32 dims, u8
 * type, 3 bytes of padding, u32 data}, where dims points to {u32 pointer, u32 rank}, and its length is not
 * passed. `get_output` takes and gives a size in f32 elements. */
export class WamrLegacy extends Abi {
  load(array: number, encoding: number, target: number, out: number): Later<void> {
    this.memory.check(out, 4);
    const [builders, count] = this.memory.u32(array, 2);
    return this.openGraph(builders!, count!, encoding, target, out);
  }

  set_input(handle: number, index: number, tensor: number): void {
    const head = new DataView(this.memory.read(tensor, 12).buffer);
    const [at, rank] = this.memory.u32(head.getUint32(0, true), 2);
    if (rank! > MAX_RANK) throw new NNError("INVALID_ARGUMENT", `the tensor has ${rank} dimensions: at most ${MAX_RANK} are allowed`);
    const dims = this.memory.u32(at!, rank!);
    const type = this.negotiation.tensorType(head.getUint8(4), dims, 0);
    const length = byteSize(type, dims);
    if (length > 0xffffffff) throw new NNError("INVALID_ARGUMENT", `a tensor of ${length} bytes is not in the guest's memory`);
    const data = this.memory.view(head.getUint32(8, true), length);
    this.session.setInput(this.session.context(handle), index, type, dims, data);
  }

  get_output(handle: number, index: number, buffer: number, sizeAt: number): void {
    const [elements] = this.memory.u32(sizeAt, 1);
    const { data } = this.session.output(this.session.context(handle), "outputs", index);
    const needed = Math.ceil(data.length / ELEMENT);
    if (needed > elements!) {
      this.memory.writeU32(sizeAt, needed);
      throw new NNError("TOO_LARGE", `the output takes ${needed} f32 elements, the buffer has ${elements}`);
    }
    this.memory.write(buffer, data);
    this.memory.writeU32(sizeAt, needed);
  }
}
