// The worker of a guest's engines, where the guest cannot be suspended.
import { ENGINES } from "./engines.js";
import { serveEngines, type EnginesMessage } from "./serving.js";

self.onmessage = ({ data }: MessageEvent<EnginesMessage>) => serveEngines(data, ENGINES);
