// The browsers that are installed, and a server of the example page.
import { existsSync } from "node:fs";
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

/** Serves the built page, with other headers than its own if they are given. */
export const serve = (headers = config.preview.headers) =>
  preview({ ...config, configFile: false, preview: { port: 0, headers }, logLevel: "error" });
