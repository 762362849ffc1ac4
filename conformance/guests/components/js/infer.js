// Sends numbers to a model and prints every output: infer NAME INPUT=V,V,... [INPUT=V,V,...]
//
// Each input is a row of f32 values, [1, n]; INPUT is the model's own name for it, or its number.

import { getArguments } from 'wasi:cli/environment@0.2.0';
import { loadByName } from 'wasi:nn/graph@0.2.0-rc-2024-10-28';
import { Tensor } from 'wasi:nn/tensor@0.2.0-rc-2024-10-28';

function tensor(text) {
  const values = new Float32Array(text.split(',').map(Number));
  return new Tensor([1, values.length], 'FP32', new Uint8Array(values.buffer));
}

function show([name, output]) {
  const data = output.data();
  const values = new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4);
  console.log(`${name} [${[...output.dimensions()].join(', ')}]: ${[...values].join(' ')}`);
}

export const run = {
  run() {
    const [, name, ...inputs] = getArguments();
    try {
      const context = loadByName(name).initExecutionContext();
      context.compute(inputs.map((text) => {
        const [input, values] = text.split('=');
        return [input, tensor(values)];
      })).forEach(show);
    } catch (failure) {
      const error = failure.payload ?? failure;
      console.error(error.code ? `${error.code()}: ${error.data()}` : String(error));
      throw undefined;
    }
  },
};
