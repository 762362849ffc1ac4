import { HEAD, recognise } from "./encodings.js";
import { NNError } from "./errors.js";
import type { Memory } from "./memory.js";
import type { Negotiation } from "./negotiation.js";
import type { Later } from "./service.js";
import { then } from "./service.js";
import type { Session } from "./session.js";
import { FUNCTIONS, MAX_BUILDERS, MAX_NAME } from "./tables.js";

/** The functions that never wait for an engine. */
export const AT_ONCE: readonly string[] = ["init_execution_context", "set_input", "get_output", "get_output_single"];

/** The functions of one import module for one guest. Each has the name of the import, and checks the
 * guest's pointers in the order of the Python host, with out-pointers first. */
export abstract class Abi {
  /** The guest's, once it is instantiated. */
  memory!: Memory;

  constructor(
    protected readonly session: Session,
    protected readonly negotiation: Negotiation,
    private readonly log: (message: string) => void,
  ) {}

  /** Every function, as one that gives an errno and never throws. Where the service answers with
   * promises, those that wait for it do too. */
  functions(): Record<string, (...args: number[]) => Later<number>> {
    const own = this as unknown as Record<string, (...args: number[]) => Later<void>>;
    const { module } = this.negotiation.dialect;
    return Object.fromEntries(Object.entries(FUNCTIONS[module]!).map(([name, count]) => [name, (...given: unknown[]) => {
      // A guest may declare the import with other parameters, and then gives too few, or BigInts.
      const args = Array.from({ length: count }, (_, index) => Number(given[index]) >>> 0);
      try {
        if (this.memory === undefined) throw new NNError("MISSING_MEMORY", "the guest exports no memory named memory");
        const done = own[name]!(...args);
        return done instanceof Promise ? done.then(() => 0, (error) => this.fail(name, args, error)) : 0;
      } catch (error) {
        return this.fail(name, args, error);
      }
    }]));
  }

  load_by_name(name: number, length: number, out: number): Later<void> {
    this.memory.check(out, 4);
    return this.give(out, this.session.loadByName(this.memory.text(name, length, "name", MAX_NAME), {}));
  }

  init_execution_context(graph: number, out: number): void {
    this.memory.check(out, 4);
    this.memory.writeU32(out, this.session.open(graph));
  }

  compute(context: number): Later<void> {
    return this.session.compute(context);
  }

  /** Loads a model from an array of pairs {pointer, length}. */
  protected openGraph(builders: number, count: number, encoding: number, target: number, out: number): Later<void> {
    const wanted = this.negotiation.target(target);
    if (count > MAX_BUILDERS) throw new NNError("INVALID_ARGUMENT", `${count} graph builders: at most ${MAX_BUILDERS} are allowed`);
    const pairs = this.memory.u32(builders, 2 * count);
    for (let at = 0; at < pairs.length; at += 2) this.memory.check(pairs[at]!, pairs[at + 1]!);
    const shown = () => (count > 0 ? recognise(this.memory.read(pairs[0]!, Math.min(pairs[1]!, HEAD))) : undefined);
    let name: string | undefined = this.negotiation.encoding(encoding, shown);
    if (name === "autodetect") name = shown();
    if (name === undefined) throw new NNError(count > 0 ? "INVALID_ENCODING" : "INVALID_ARGUMENT", "autodetect does not recognise the model");
    if (count !== 1) throw new NNError("INVALID_ARGUMENT", `a model of ${name} has one graph builder, not ${count}`);
    return this.give(out, this.session.load(name, this.memory.read(pairs[0]!, pairs[1]!), wanted));
  }

  protected give(out: number, handle: Later<number>): Later<void> {
    return then(handle, (value) => this.memory.writeU32(out, value));
  }

  private fail(name: string, args: number[], error: unknown): number {
    // An exception's own `code` is never an errno: DOMException has numbers there.
    const code = error instanceof NNError ? error.code : "RUNTIME_ERROR";
    const errno = this.negotiation.dialect.errnos[code]!;
    const reason = error instanceof Error ? error.message : String(error);
    if (code !== "END_OF_SEQUENCE")
      this.log(`${name}(${args.join(", ")}) -> ${errno} ${code.toLowerCase()}: ${reason}`);
    return errno;
  }
}
