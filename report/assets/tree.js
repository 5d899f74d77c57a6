// What is alive -> a flame or a treemap, by module or by line, and the code beside it.
"use strict";

const ROW_HEIGHT = 40;
const TREEMAP_HEIGHT = 380;
const LEAST_LABEL = { width: 34, height: 13 };
const MOST_SITES = 2;
const LINES_AROUND = 4;
const KEPT = "kept from the step before";
let selected = null; // the path of the chosen box

// --- the tree: nodes with the bytes of all that lies below them ---

const newNode = (name, path) => ({ name, path, children: new Map(), bytes: 0, count: 0, by: {}, sites: new Map() });

// Where in the tree a storage lies: the names of its nodes, from the outermost.
function placeOf(s) {
  const made = `${s.leaf || short(s.packet) || KEPT} · ${words(s.category)}`;
  if (state.by === "module") {
    const path = $("rolled").checked ? rolled(s.module) : s.module;
    return [...(path ? path.split(".") : ["(no module)"]), made];
  }
  if (s.site) return [base(s.site.file), s.site.function || "?", `line ${s.site.line}`, made];
  const owner = s.name ? rolled(s.module) || s.leaf : short(s.packet) || KEPT;
  return ["(no line of yours)", words(s.category), owner];
}

function addTo(node, s) {
  node.bytes += s.bytes;
  node.count++;
  node.by[s.category] = (node.by[s.category] || 0) + s.bytes;
  if (!s.site) return;
  const held = node.sites.get(siteKey(s.site)) || { site: s.site, bytes: 0 };
  held.bytes += s.bytes;
  node.sites.set(siteKey(s.site), held);
}

function treeData() {
  const run = current();
  const root = newNode("everything", []);
  for (const s of aliveAt(run, state.point)) {
    let node = root;
    addTo(root, s);
    for (const part of placeOf(s)) {
      if (!node.children.has(part)) node.children.set(part, newNode(part, [...node.path, part]));
      node = node.children.get(part);
      addTo(node, s);
    }
  }
  const missing = run.total[state.point] - root.bytes;
  if (missing) {
    const small = { ...newNode("smaller ones", ["smaller ones"]), bytes: missing, count: run.raw.storages.left_out };
    root.children.set(small.name, small);
    root.bytes += missing;
  }
  for (const child of root.children.values()) joinChains(child);
  return root;
}

// A node whose only child has children itself takes the child's place: `h` and `*` become `h.*`.
function joinChains(node) {
  for (;;) {
    const [only] = node.children.values();
    if (node.children.size !== 1 || !only.children.size) break;
    node.name = `${node.name}${state.by === "module" ? "." : " › "}${only.name}`;
    node.children = only.children;
  }
  for (const child of node.children.values()) joinChains(child);
}

// The node at a path, whose names a joined node may have taken several of.
function findNode(root, path) {
  const inside = (node) => node.path.every((part, i) => part === path[i]);
  let node = root;
  for (;;) {
    const next = [...node.children.values()].find(inside);
    if (!next) return node;
    node = next;
  }
}

// --- the drawing ---

function drawTree() {
  const root = treeData();
  let node = findNode(root, state.path);
  if (!node.children.size) node = findNode(root, node.path.slice(0, -1));
  state.path = node.path;
  drawPath(root, node);
  const box = $("tree");
  const boxes = layOut(node, box);
  box.className = state.as;
  box.replaceChildren(...boxes.map((d, i) => treeBox(d, i === 0, root.bytes)));
  if (!boxes.length) box.textContent = "nothing is alive";
  showCode(selected ? findNode(root, selected) : node);
}

function drawPath(root, node) {
  const above = [root];
  for (let length = 1; length <= node.path.length; length++) {
    const next = findNode(root, node.path.slice(0, length));
    if (next !== above[above.length - 1]) above.push(next);
  }
  const go = (to) => () => {
    state.path = to.path;
    drawTree();
  };
  const crumb = (to) =>
    to === node
      ? make("span", { "aria-current": "location" }, to.name)
      : make("button", { type: "button", onclick: go(to) }, to.name);
  $("path").replaceChildren(...above.flatMap((to, i) => [i ? "›" : "", crumb(to)]));
}

function layOut(node, box) {
  const nest = (n) => ({
    node: n,
    value: n.children.size ? 0 : n.bytes,
    children: [...n.children.values()].map(nest),
  });
  const layout = d3
    .hierarchy(nest(node))
    .sum((d) => d.value)
    .sort((a, b) => b.value - a.value);
  const height = state.as === "flame" ? ROW_HEIGHT * (layout.height + 1) : TREEMAP_HEIGHT;
  box.style.height = `${height}px`;
  (state.as === "flame" ? flame : treemap)(layout, box.clientWidth, height);
  return layout.descendants().filter((d) => d.x1 - d.x0 >= 2 && d.y1 - d.y0 >= 2);
}

const flame = (layout, width, height) => d3.partition().size([width, height])(layout);

function treemap(layout, width, height) {
  const tiles = d3.treemap().size([width, height]).paddingOuter(2).paddingInner(1).round(true);
  tiles.paddingTop((d) => (d.height ? 19 : 0))(layout);
}

function treeBox(d, isFirst, total) {
  const node = d.data.node;
  const [category] = d.children ? [] : Object.entries(node.by).sort((a, b) => b[1] - a[1])[0] || [];
  const large = d.x1 - d.x0 > LEAST_LABEL.width && d.y1 - d.y0 > LEAST_LABEL.height;
  const size = `${bytesText(node.bytes)}, ${shareText(node.bytes, total)}`;
  const count = node.count > 1 ? `, ${node.count.toLocaleString("en-US")} storages` : "";
  const attributes = {
    role: "treeitem",
    tabindex: isFirst ? 0 : -1,
    class: d.children ? "inner" : "leaf",
    "aria-level": d.depth + 1,
    "aria-selected": String(samePath(selected, node.path)),
    "aria-label": `${node.name}: ${size}`,
    "data-path": JSON.stringify(node.path),
    style: boxStyle(d, category),
    onclick: () => pick(node, d.depth),
    onmousemove: (event) => tip(`${node.path.join(" › ") || node.name}\n${size}${count}`, event.clientX, event.clientY),
    onmouseleave: hideTip,
  };
  return make("div", attributes, ...(large ? [node.name, " ", make("small", {}, bytesText(node.bytes))] : []));
}

function boxStyle(d, category) {
  const place = { left: d.x0, top: d.y0, width: d.x1 - d.x0, height: d.y1 - d.y0 };
  const style = Object.fromEntries(Object.entries(place).map(([name, value]) => [name, `${value}px`]));
  return category ? { ...style, background: `var(--${category})`, color: `var(--on-${category})` } : style;
}

const samePath = (a, b) => Boolean(a) && a.length === b.length && a.every((part, i) => part === b[i]);

// A click looks inside a box, or out again where it is the outermost; the box keeps the focus.
function pick(node, depth) {
  if (depth === 0) goUp();
  else if (node.children.size) state.path = node.path;
  selected = depth === 0 ? state.path : node.path;
  drawTree();
  const again = treeItems().find((item) => samePath(selected, pathOf(item)));
  if (again) again.focus({ preventScroll: true });
}

function goUp() {
  const root = treeData();
  const here = findNode(root, state.path);
  let above = root;
  for (let length = 1; length <= state.path.length; length++) {
    const next = findNode(root, state.path.slice(0, length));
    if (next === here) break;
    above = next;
  }
  state.path = above.path;
}

// --- the keyboard ---

const treeItems = () => [...$("tree").querySelectorAll("[role=treeitem]")];
const pathOf = (item) => JSON.parse(item.dataset.path);
const levelOf = (item) => Number(item.getAttribute("aria-level"));

function focusItem(item) {
  if (!item) return;
  for (const other of treeItems()) other.setAttribute("tabindex", "-1");
  item.setAttribute("tabindex", "0");
  item.focus({ preventScroll: true });
}

const TREE_KEYS = {
  ArrowRight: (from, same) => focusItem(same[same.indexOf(from) + 1]),
  ArrowLeft: (from, same) => focusItem(same[same.indexOf(from) - 1]),
  ArrowDown: (from) => focusItem(treeItems().find((item) => levelOf(item) === levelOf(from) + 1 && isIn(item, from))),
  ArrowUp: (from) => focusItem(treeItems().find((item) => levelOf(item) === levelOf(from) - 1 && isIn(from, item))),
  Enter: (from) => from.click(),
  " ": (from) => from.click(),
  Escape: () => {
    goUp();
    drawTree();
    focusItem(treeItems()[0]);
  },
};

const isIn = (item, outer) => pathOf(outer).every((part, i) => part === pathOf(item)[i]);

function moveInTree(event) {
  const move = TREE_KEYS[event.key];
  const from = event.target;
  if (!move || from.getAttribute("role") !== "treeitem") return;
  event.preventDefault();
  move(
    from,
    treeItems().filter((item) => levelOf(item) === levelOf(from)),
  );
}

// --- the code ---

function showCode(node) {
  const run = current();
  const sites = [...node.sites.values()].sort((a, b) => b.bytes - a.bytes);
  const count = node.count ? `, ${node.count.toLocaleString("en-US")} storages` : "";
  const share = shareText(node.bytes, run.total[state.point]);
  const by = Object.entries(node.by).sort((a, b) => b[1] - a[1]);
  const parts = [
    make("h3", {}, node.path.join(" › ") || node.name),
    make("p", {}, `${bytesText(node.bytes)}, ${share} of what is alive${count}`),
  ];
  if (by.length > 1)
    parts.push(make("p", {}, by.map(([name, bytes]) => `${words(name)} ${bytesText(bytes)}`).join(", ")));
  for (const held of sites.slice(0, MOST_SITES)) parts.push(...codeAt(held, node.sites));
  if (sites.length > MOST_SITES) parts.push(make("p", {}, `and ${sites.length - MOST_SITES} more lines`));
  if (!sites.length)
    parts.push(make("p", {}, "No line of your code made this: it was alive before, or PyTorch made it on its own."));
  $("code").replaceChildren(...parts);
}

function codeAt({ site, bytes }, sites) {
  const where = `${site.file}:${site.line}${site.function ? ` in ${site.function}` : ""}: ${bytesText(bytes)}`;
  const lines = current().raw.sources[site.file];
  if (!lines || !(site.line in lines))
    return [make("p", {}, where), make("p", {}, "This file could not be read where the page was made.")];
  const near = Object.keys(lines).map(Number);
  const shown = near.filter((number) => Math.abs(number - site.line) <= LINES_AROUND).sort((a, b) => a - b);
  const row = (number) => {
    const held = sites.get(siteKey({ ...site, line: number }));
    return make(
      "div",
      { class: number === site.line ? "here" : "" },
      make("i", {}, number),
      make("b", {}, held ? bytesText(held.bytes) : ""),
      make("pre", {}, lines[number] || " "),
    );
  };
  return [make("p", {}, where), make("div", { class: "lines" }, ...shown.map(row))];
}
