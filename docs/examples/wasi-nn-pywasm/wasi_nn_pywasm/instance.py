"""One guest in pywasm."""

import io

import pywasm

from wasi_nn.errors import GuestError, GuestTrap, LinkError, UsageError
from wasi_nn.runtime import outside
from wasi_nn.runtime.engine import HOST_TRAP, EngineInstance, missing_export
from wasi_nn.runtime.wasi_streams import Preview1
from wasi_nn.wasm.wasi_signatures import SIGNATURES

WASI = "wasi_snapshot_preview1"
BAD_DESCRIPTOR, NOT_SUPPORTED = 8, 52  # errnos of WASI
FUNCTION, MEMORY = 0, 2  # kinds of exports
BITS = {0x7F: 32, 0x7E: 64}  # of the types i32 and i64
MAX_FRAMES = 1000


def parse(wasm):
    return pywasm.ModuleDesc.from_reader(io.BytesIO(wasm))


def signed(number, bits):
    """Integers come signed or unsigned. pywasm takes signed ones."""
    return number - (1 << bits) if bits and number >= 1 << (bits - 1) else number


class Instance(EngineInstance):
    def __init__(self, wasm, functions, wasi):
        super().__init__()
        if wasi.preopens:
            raise UsageError("pywasm cannot give a directory to a guest")
        self._module = parse(wasm)  # anew: pywasm changes it
        self._instance = None
        self._store = pywasm.core.Store()
        streams = Preview1(wasi, self.output_failures, self.pause).functions(WASI)
        self._functions = {(f.module, f.name): f for f in (*functions, *streams)}

    def link(self):
        imports = [self._import(item) for item in self._module.imps]
        machine = Machine(self, self._store)
        self._instance = machine.run(machine.instance, self._module, imports)

    @property
    def memory(self):
        """For the embedder, between calls."""
        return self._instance and memory_of(self._instance, self._store)

    def invoke(self, export, arguments):
        wanted = (export, FUNCTION)
        found = [e.data.data for e in self._instance.exps if (e.name, e.data.kind) == wanted]
        if not found:
            raise missing_export(export)
        kinds = self._store.func[found[0]].type.args
        given = [
            pywasm.ValInst.from_all(kind, signed(number, BITS.get(kind.data)))
            for kind, number in zip(kinds, arguments, strict=True)
        ]
        # A host function may call back into the guest, so each call has its own stack.
        machine = Machine(self, self._store)
        return tuple(result.into_all() for result in machine.run(machine.invocate, *found, given))

    def close(self):
        self._instance = self._store = None

    def _import(self, item):
        function = self._functions.get((item.module, item.name))
        if function is not None:
            call = self._host_call(function)
        elif item.module == WASI and item.name in SIGNATURES:
            # There are no files, so no descriptors besides the three streams.
            errno = BAD_DESCRIPTOR if item.name.startswith("fd_") else NOT_SUPPORTED
            call = lambda machine, arguments: [errno]  # noqa: E731
        else:
            raise LinkError(f"the guest cannot start: nothing provides {item.module}.{item.name}")
        kind = self._module.type[item.desc]
        address = self._store.allocate_func_host(pywasm.core.FuncHost(kind, call))
        return pywasm.Extern(FUNCTION, address)

    def _host_call(self, function):
        def call(machine, arguments):
            try:
                self.check_stopped()
                # (A function that only ends the guest takes none of its numbers.)
                given = arguments[: function.parameters]
                numbers = (number & 0xFFFFFFFF for number in given)
                memory = memory_of(machine.stack.frame[-1].module, self._store)
                result = function.call(memory, *numbers)
            except BaseException as error:
                self.raised = error  # start and call raise it in place of the trap
                raise GuestTrap(HOST_TRAP) from None
            return [signed(result, 32)] if function.has_result else []

        return call


class Machine(pywasm.core.Machine):
    """pywasm's interpreter, with one stack."""

    def __init__(self, guest, store):
        super().__init__()
        self.store = store
        self._check_stopped = guest.check_stopped

    def run(self, work, *arguments):
        try:
            return work(*arguments)
        except GuestError:
            raise
        except Exception as error:
            raise self._trap(error) from None

    def _trap(self, error):
        """A trap is an exception of any kind in pywasm, often without a text."""
        name = "instantiation"
        if self.stack.label:
            label = self.stack.label[-1]
            name = pywasm.opcode.name[label.instr[label.index - 1].opcode]
        if isinstance(error, ZeroDivisionError):
            return GuestTrap(f"integer divide by zero in {name}")
        if "load" in name or "store" in name:
            return GuestTrap(f"out of bounds memory access in {name}")
        return GuestTrap(f"{name}: {error!r}" if str(error) else name)

    def evaluate_br(self, label):
        self._check_stopped()  # in every round of every loop
        super().evaluate_br(label)

    def evaluate_call(self, address):
        if len(self.stack.frame) > MAX_FRAMES:
            raise GuestTrap("call stack exhausted")
        super().evaluate_call(address)


def memory_of(instance, store):
    """The memory that an instance exports, as it is now."""
    for export in instance.exps:
        if (export.name, export.data.kind) == ("memory", MEMORY):
            return Memory(store.mems[export.data.data].data)
    return None


class Memory:
    """A guest's memory, read in copies: a bytearray cannot grow while there is a view of it."""

    def __init__(self, data):
        self._data = data

    @property
    def size(self):
        return len(self._data)

    def check(self, pointer, length):
        if pointer + length > self.size:
            raise outside(pointer, length, self.size)

    def read(self, pointer, length):
        self.check(pointer, length)
        return memoryview(bytes(self._data[pointer : pointer + length]))

    def write(self, pointer, data):
        self.check(pointer, len(data))
        self._data[pointer : pointer + len(data)] = data
