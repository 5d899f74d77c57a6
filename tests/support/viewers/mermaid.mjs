// Mermaid text on standard input -> what Mermaid's own parser makes of it, as JSON. The argument is a node_modules folder.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const load = (path) => import(pathToFileURL(`${process.argv[2]}/${path}`));
const { JSDOM } = (await load("jsdom/lib/api.js")).default;
const { window } = new JSDOM("");
Object.assign(globalThis, { window, document: window.document });
const { default: mermaid } = await load("mermaid/dist/mermaid.core.mjs");
const text = readFileSync(0, "utf8");
await mermaid.parse(text); // throws where it does not parse, and knows the kinds of diagrams afterwards
const { type, db } = await mermaid.mermaidAPI.getDiagramFromText(text);
const nodes = [...db.getVertices().values()].map((node) => node.text);
console.log(JSON.stringify({ type, nodes, edges: db.getEdges().map((edge) => edge.text) }));
