/** How a guest waits for its engines: `jspi` suspends it, `sab` blocks its worker, and the engines are in
 * a second one. */
export type Bridge = "jspi" | "sab";

const MISSING: Record<Bridge, () => string | undefined> = {
  jspi: () => "Suspending" in WebAssembly ? undefined : "the browser has no JSPI (WebAssembly.Suspending)",
  sab: () => globalThis.crossOriginIsolated ? undefined : "the page is not cross-origin isolated, as SharedArrayBuffer needs it",
};
const HEADERS = "Serve the page over HTTPS or from localhost, with the headers Cross-Origin-Opener-Policy: same-origin "
  + "and Cross-Origin-Embedder-Policy: require-corp (or credentialless)";

/** The bridge that is asked for, or the first that this page can have. Throws a sentence. */
export function chooseBridge(asked: Bridge | "auto"): Bridge {
  const wanted = asked === "auto" ? (["jspi", "sab"] as const) : [asked];
  for (const bridge of wanted) if (MISSING[bridge]() === undefined) return bridge;
  const reasons = wanted.map((bridge) => MISSING[bridge]()).join(", and ");
  const remedy = [
    ...(wanted.includes("sab") ? [HEADERS] : []),
    ...(wanted.includes("jspi") ? ["use a browser with JSPI"] : []),
  ].join(", or ");
  throw new Error(`this page cannot run a guest: ${reasons}. ${remedy[0]!.toUpperCase()}${remedy.slice(1)}.`);
}
