export interface Job<T> {
  readonly id: number;
  run(signal: AbortSignal): Promise<T>;
}

type Outcome<T> = { ok: true; value: T } | { ok: false; error: unknown };

export class Queue<T> {
  private waiting: Array<Job<T>> = [];
  private readonly controller = new AbortController();

  constructor(private readonly width: number = 4) {}

  push(job: Job<T>): void {
    this.waiting.push(job);
  }

  async drain(): Promise<Map<number, Outcome<T>>> {
    const outcomes = new Map<number, Outcome<T>>();
    const worker = async (): Promise<void> => {
      for (let job = this.waiting.shift(); job !== undefined; job = this.waiting.shift()) {
        try {
          outcomes.set(job.id, { ok: true, value: await job.run(this.controller.signal) });
        } catch (error) {
          outcomes.set(job.id, { ok: false, error });
        }
      }
    };
    await Promise.all(Array.from({ length: this.width }, worker));
    return outcomes;
  }
}
