// A snapshot on standard input -> what the code of PyTorch's memory viewer makes of it, as JSON.
// The argument is a folder with torch/utils/viz of PyTorch's sources. Its pictures are not drawn: d3 is a stand-in.
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { pathToFileURL } from "node:url";

const folder = mkdtempSync(`${tmpdir()}/viewer-`);
try {
  const viewer = readFileSync(`${process.argv[2]}/MemoryViz.js`, "utf8")
    .replace(/^import [^;]*? from "https:[^;]*;$/gm, "")
    .replace("./process_alloc_data.js", "./data.mjs")
    .replace(/^const body = .*$/m, "const body = d3;");
  const before = "const d3 = new Proxy(() => d3, { get: () => d3 }), noted = console.log;\nconsole.log = () => {};\n";
  const after = "\nexport { unpickle_and_annotate };\n";
  copyFileSync(`${process.argv[2]}/process_alloc_data.js`, `${folder}/data.mjs`);
  writeFileSync(`${folder}/viewer.mjs`, before + viewer + after);
  const log = console.log;
  const { unpickle_and_annotate } = await import(pathToFileURL(`${folder}/viewer.mjs`));
  const { process_alloc_data } = await import(pathToFileURL(`${folder}/data.mjs`));
  const data = readFileSync(0);
  const found = unpickle_and_annotate(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));
  const drawn = process_alloc_data(found, 0, false, 15000);
  const segments = process_alloc_data(found, 0, true, 15000);
  log(
    JSON.stringify({
      categories: found.categories,
      most_live: Math.max(...drawn.max_at_time),
      most_segments: Math.max(...segments.max_at_time),
      said: [...Array(drawn.elements_length).keys()].map((id) => drawn.context_for_id(id)),
    }),
  );
} finally {
  rmSync(folder, { recursive: true });
}
