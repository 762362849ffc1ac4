/** Why a call failed: `code` is a name in the dialect's table of errnos. */
export class NNError extends Error {
  constructor(readonly code: string, message: string) {
    super(message);
  }
}

/** What a library's import gives. Throws a sentence if it fails. */
export function loaded<T>(library: string, imported: Promise<T>): Promise<T> {
  return imported.catch((error: unknown) => {
    throw new NNError("RUNTIME_ERROR", `${library} did not load: ${error instanceof Error ? error.message : String(error)}`);
  });
}
