"""Send a text to a model of bytes and print what it answers: ask NAME TEXT [CONFIG].

The model's input is called `prompt` (and `config`, for JSON); every output is printed."""

import sys

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import graph
from wit_world.imports.tensor import Tensor, TensorType


def text(value: str) -> Tensor:
    data = value.encode()
    return Tensor([len(data)], TensorType.U8, data)


class Run(exports.Run):
    def run(self) -> None:
        name, prompt, *config = sys.argv[1:]
        try:
            with graph.load_by_name(name) as model, model.init_execution_context() as context:
                inputs = [("prompt", text(prompt)), *(("config", text(c)) for c in config)]
                for output, tensor in context.compute(inputs):
                    with tensor:
                        print(f"{output}: {bytes(tensor.data()).decode(errors='replace')}")
        except Err as failure:
            error = failure.value
            print(f"{error.code().name}: {error.data()}", file=sys.stderr)
            sys.exit(1)
