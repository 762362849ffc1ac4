// Makes a component of a program's core module, or of a JavaScript module:
//
//   node componentize.mjs WIT-FOLDER WORLD SOURCE.wasm|SOURCE.js OUTPUT
//
// `jco` reads WIT from folders too, but not on every system; here it is one text.

import { readdir, readFile, writeFile } from 'node:fs/promises';

const [folder, world, source, output] = process.argv.slice(2);
const PACKAGE = /^package ([^;]+);/m;

/** All of a folder's WIT as one text: the world's package, and blocks of the others. */
async function wit() {
  const packages = new Map();
  for (const dependency of (await readdir(`${folder}/deps`)).sort()) {
    for (const file of (await readdir(`${folder}/deps/${dependency}`)).sort()) {
      const text = await readFile(`${folder}/deps/${dependency}/${file}`, 'utf8');
      const name = PACKAGE.exec(text)[1];
      packages.set(name, (packages.get(name) ?? '') + text.replace(PACKAGE, '//'));
    }
  }
  const blocks = [...packages].map(([name, text]) => `package ${name} {\n${text}}\n`);
  return (await readFile(`${folder}/world.wit`, 'utf8')) + blocks.join('');
}

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
