// The chosen instant -> what is alive then, by category and by kind.
"use strict";

const MOST_KINDS = 10;
const LIVE_COLUMNS = [
  ["what", "text"],
  ["why", "text roomy"],
  ["each", "roomy"],
  ["together", ""],
  ["share", ""],
  ["line", "text"],
];

function aliveAt(run, point) {
  const event = run.event[point];
  return run.storages.filter((s) => s.born <= event && (s.died < 0 || s.died > event));
}

function instantWords() {
  const run = current();
  if (state.point === run.peak) return `at the peak, ${after(state.point)}`;
  return after(state.point);
}

const after = (point) => (current().op[point] < 0 ? describe(point) : `after ${describe(point)}`);

// Storages alike as one: same kind of module, category, size, op and line.
function kindsAlive(run, point) {
  const kinds = new Map();
  for (const s of aliveAt(run, point)) {
    const key = JSON.stringify([rolled(s.module), s.category, s.bytes, s.packet, s.site && siteKey(s.site)]);
    const kind = kinds.get(key);
    if (kind) kind.count++;
    else kinds.set(key, { ...s, count: 1 });
  }
  const all = [...kinds.values()].map((kind) => ({ ...kind, together: kind.bytes * kind.count }));
  return all.sort((a, b) => b.together - a.together);
}

function drawAlive() {
  const run = current();
  const total = run.total[state.point];
  $("when").textContent = instantWords();
  $("instant").setAttribute("aria-valuetext", `${describe(state.point)}: ${bytesText(total)}`);
  $("holders-when").textContent =
    `${bytesText(total)} ${instantWords()}. Choose a box to look inside and to see its code.`;
  drawCategories(run, total);
  drawKinds(kindsAlive(run, state.point), total);
}

function drawCategories(run, total) {
  const held = data.stack.map((name, i) => [name, run.live[i][state.point]]).filter(([, count]) => count);
  const row = (mark, name, count, kind) =>
    make(
      "tr",
      { class: kind },
      make("th", { scope: "row" }, mark, name),
      make("td", {}, bytesCell(count)),
      make("td", {}, shareText(count, total)),
    );
  const swatch = (name) => make("i", { style: { background: `var(--${name})` } });
  $("categories").tBodies[0].replaceChildren(
    ...held.reverse().map(([name, count]) => row(swatch(name), words(name), count)),
    row("", "together", total, "total"),
  );
}

function drawKinds(kinds, total) {
  const listed = kinds.slice(0, MOST_KINDS);
  const others = total - listed.reduce((sum, kind) => sum + kind.together, 0);
  const head = LIVE_COLUMNS.map(([name, kind]) => make("th", { scope: "col", class: kind }, name));
  const body = listed.map((kind) => kindRow(kind, total));
  if (others) body.push(othersRow(kinds.length - listed.length, others, total));
  $("live").replaceChildren(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

function kindRow(kind, total) {
  const where = rolled(kind.module) || rolled(kind.name) || "(no module)";
  const each = kind.count > 1 ? `${kind.count.toLocaleString("en-US")} × ${bytesText(kind.bytes)}` : "";
  return make(
    "tr",
    {},
    make(
      "td",
      { class: "text", title: kind.name || `${kind.module} ${kind.packet}` },
      `${where} ${short(kind.packet)}`,
    ),
    make("td", { class: "text roomy" }, words(kind.category)),
    make("td", { class: "roomy" }, each),
    make("td", {}, bytesCell(kind.together)),
    make("td", {}, shareText(kind.together, total)),
    make("td", { class: "text" }, lineOf(kind)),
  );
}

function othersRow(count, bytes, total) {
  return make(
    "tr",
    {},
    make("td", { class: "text" }, `${count.toLocaleString("en-US")} other kinds`),
    make("td", { class: "roomy" }),
    make("td", { class: "roomy" }),
    make("td", {}, bytesCell(bytes)),
    make("td", {}, shareText(bytes, total)),
    make("td"),
  );
}
