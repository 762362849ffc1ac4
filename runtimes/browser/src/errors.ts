/** Why a call failed: `code` is a name in the dialect's table of errnos. */
export class NNError extends Error {
  constructor(readonly code: string, message: string) {
    super(message);
  }
}
