// The browsers that are installed, and a server of the example page.
import { existsSync, readFileSync } from "node:fs";
import puppeteer from "puppeteer-core";
import { preview } from "vite";
import config from "../vite.config.js";

const { CHROMIUM = "/usr/bin/chromium", FIREFOX = "/usr/bin/firefox-esr", CI } = process.env;
const missing = (path, variable) => (existsSync(path) ? false : `there is no ${path}: install it, or name another in ${variable}`);

export const BROWSERS = {
  chromium: {
    missing: missing(CHROMIUM, "CHROMIUM"),
    launch: () => puppeteer.launch({ browser: "chrome", executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] }),
  },
  firefox: {
    missing: missing(FIREFOX, "FIREFOX"),
    launch: () => puppeteer.launch({ browser: "firefox", executablePath: FIREFOX }),
  },
};
if (CI && BROWSERS.chromium.missing) throw new Error(BROWSERS.chromium.missing);

/** Serves the built pages and the conformance suite, with other headers than its own if they are given. What `deny` matches is then
 * not found. */
export async function serve(headers = config.preview.headers) {
  let denied;
  const plugin = {
    name: "deny",
    configurePreviewServer: ({ middlewares }) => void middlewares.use((request, response, next) => {
      const { pathname } = new URL(request.url, "http://localhost");
      if (pathname.startsWith("/conformance/")) response.end(readFileSync(new URL(`../../..${pathname}`, import.meta.url)));
      else if (denied?.test(request.url)) response.writeHead(404).end();
      else next();
    }),
  };
  const server = await preview({ ...config, configFile: false, plugins: [plugin], preview: { port: 0, headers }, logLevel: "error" });
  return Object.assign(server, { deny: (pattern) => { denied = pattern; } });
}
