// Builds dist/, which is committed and embedded: the same sources always give
// the same bytes. Assets are named by their content, so that a browser may keep
// them for ever; index.html names them.
import { createHash } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = fileURLToPath(new URL(".", import.meta.url));

const { outputFiles } = await build({
  absWorkingDir: root,
  entryPoints: ["src/main.ts", "src/style.css"],
  outdir: "dist",
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022", "chrome111", "firefox115", "safari16.4"],
  charset: "utf8",
  legalComments: "none",
  write: false,
  logLevel: "warning",
});

const assets = outputFiles.map((f) => ({ name: f.path.split(/[\\/]/).at(-1), bytes: f.contents }));
assets.push({ name: "favicon.svg", bytes: await readFile(`${root}src/favicon.svg`) });

let index = await readFile(`${root}src/index.html`, "utf8");
await rm(`${root}dist`, { recursive: true, force: true });
await mkdir(`${root}dist/assets`, { recursive: true });
for (const { name, bytes } of assets) {
  const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 12);
  const path = `assets/${name.slice(0, -extname(name).length)}-${hash}${extname(name)}`;
  if (!index.includes(`{{${name}}}`)) throw new Error(`src/index.html does not use ${name}`);
  index = index.replaceAll(`{{${name}}}`, path);
  await writeFile(`${root}dist/${path}`, bytes);
}
if (index.includes("{{")) throw new Error("src/index.html names an asset that is not built");
await writeFile(`${root}dist/index.html`, index);
