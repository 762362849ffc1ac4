// Makes a component of a program's core module, or of a JavaScript module:
//
//   node componentize.mjs WORLD SOURCE.wasm|SOURCE.js OUTPUT
//
// `jco` reads WIT from folders too, but not on every system; here it is one text.

import { readdir, readFile, writeFile } from 'node:fs/promises';

const FOLDER = new URL('wit/', import.meta.url);
const PACKAGE = /^package ([^;]+);/m;

/** All of the WIT as one text: the world's package, and blocks of the others. */
async function wit() {
  const packages = new Map();
  for (const folder of (await readdir(new URL('deps/', FOLDER))).sort()) {
    for (const file of (await readdir(new URL(`deps/${folder}/`, FOLDER))).sort()) {
      const text = await readFile(new URL(`deps/${folder}/${file}`, FOLDER), 'utf8');
      const name = PACKAGE.exec(text)[1];
      packages.set(name, (packages.get(name) ?? '') + text.replace(PACKAGE, '//'));
    }
  }
  const blocks = [...packages].map(([name, text]) => `package ${name} {\n${text}}\n`);
  return (await readFile(new URL('world.wit', FOLDER), 'utf8')) + blocks.join('');
}

const [world, source, output] = process.argv.slice(2);
if (source.endsWith('.js')) {
  const { componentize } = await import('@bytecodealliance/componentize-js');
  const made = await componentize(await readFile(source, 'utf8'), {
    sourceName: source.split('/').pop(),
    witWorld: await wit(),
    worldName: world,
    // What StarlingMonkey has beside the world: a program that computes needs no network.
    disableFeatures: ['http', 'fetch-event'],
  });
  await writeFile(output, made.component);
} else {
  const { componentEmbed, componentNew, preview1AdapterCommandPath } =
    await import('@bytecodealliance/jco');
  const binary = await readFile(source);
  const embedded = await componentEmbed({ binary, witSource: await wit(), world });
  const adapter = await readFile(preview1AdapterCommandPath());
  await writeFile(output, await componentNew(embedded, [['wasi_snapshot_preview1', adapter]]));
}
