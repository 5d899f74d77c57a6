// The ops, alike as one row or each -> a table that sorts, filters and copies.
"use strict";

const MOST_ROWS = 60;
const MORE_ROWS = 200;

const boundWords = (bound) => data.bounds[bound] || bound;

const groupRow = (run) => (row) => ({ ...kindOfOp(run)(row), kind: run.text(row[5]) });

function opRow(run, id, i) {
  const ops = run.raw.ops;
  const { packet, module, site } = run.origin(ops.origin[i]);
  const [tensor, vector, read, written, seconds, bound, kind, shape] = run.raw.works[ops.work[i]];
  return {
    op: short(packet),
    module,
    phase: ops.phase[i] < 0 ? "" : run.phases[ops.phase[i]].name,
    site,
    bound: run.text(bound),
    kind: run.text(kind),
    count: id,
    flops: tensor + vector,
    bytes: read + written,
    seconds,
    shape: run.text(shape),
  };
}

function opRows() {
  const run = current();
  if (state.rows === "groups") return run.raw.groups.map(groupRow(run));
  return summed(run.raw.ops.id).map((id, i) => opRow(run, id, i));
}

function columns() {
  const total = current().totals.time.step_seconds;
  return [
    { key: "op", name: "op", text: true, show: (r) => r.op },
    { key: "module", name: "module", text: true, show: (r) => r.module },
    { key: "phase", name: "phase", text: true, roomy: true, show: (r) => words(r.phase) },
    {
      key: "line",
      name: "line",
      text: true,
      roomy: true,
      show: lineOf,
      value: (r) => (r.site ? `${r.site.file}:${String(r.site.line).padStart(7, "0")}` : ""),
    },
    {
      key: "count",
      name: state.rows === "groups" ? "ops" : "number",
      roomy: true,
      show: (r) => r.count.toLocaleString("en-US"),
      plain: (r) => r.count,
    },
    { key: "seconds", name: "time", show: (r) => secondsText(r.seconds), plain: (r) => r.seconds },
    {
      key: "share",
      name: "share",
      show: (r) => shareText(r.seconds, total),
      value: (r) => r.seconds,
      plain: (r) => (total ? r.seconds / total : 0),
    },
    { key: "flops", name: "FLOP", show: (r) => (r.flops ? countText(r.flops, "") : "0"), plain: (r) => r.flops },
    { key: "bytes", name: "moved", show: (r) => bytesText(r.bytes), plain: (r) => r.bytes },
    {
      key: "intensity",
      name: "FLOP/byte",
      show: (r) => (r.bytes ? threeDigits(r.flops / r.bytes) : ""),
      value: (r) => (r.bytes ? r.flops / r.bytes : -1),
      plain: (r) => (r.bytes ? r.flops / r.bytes : ""),
    },
    { key: "bound", name: "spent on", text: true, show: (r) => boundWords(r.bound) },
    { key: "kind", name: "priced", text: true, show: (r) => r.kind },
    ...(state.rows === "ops" ? [{ key: "shape", name: "gives", text: true, show: (r) => r.shape }] : []),
  ];
}
function filtered() {
  const needles = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const phase = $("phase").value;
  const matches = (row) => {
    if (phase && row.phase !== phase) return false;
    const hay = [row.op, row.module, lineOf(row), row.kind, boundWords(row.bound)].join(" ").toLowerCase();
    return needles.every((needle) => hay.includes(needle));
  };
  return opRows().filter(matches).sort(bySort());
}

function bySort() {
  const [key, direction] = state.sort;
  const column = columns().find((c) => c.key === key) || columns().find((c) => c.key === "seconds");
  const value = column.value || ((row) => row[column.key]);
  return (a, b) => direction * (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0);
}

function sortBy(column) {
  const [key, direction] = state.sort;
  state.sort = key === column.key ? [key, -direction] : [column.key, column.text ? 1 : -1];
  drawOps();
  document.querySelector(`[data-sort="${column.key}"]`).focus();
}

const classes = (column, more = "") => [column.text ? "text" : "", column.roomy ? "roomy" : "", more].join(" ").trim();

function heading(column) {
  const [key, direction] = state.sort;
  const sorted = key === column.key ? (direction > 0 ? "ascending" : "descending") : undefined;
  const arrow = { ascending: " ↑", descending: " ↓" }[sorted] || "";
  const button = { type: "button", "data-sort": column.key, onclick: () => sortBy(column) };
  return make(
    "th",
    { scope: "col", class: classes(column), "aria-sort": sorted },
    make("button", button, column.name, arrow),
  );
}

const cell = (row) => (column, i) =>
  make(
    "td",
    {
      class: classes(column, i ? "" : "name"),
      title: column.text ? column.show(row) : undefined,
    },
    column.show(row),
  );

function drawOps() {
  const shown = columns();
  const rows = filtered();
  const table = $("table");
  table.tHead.replaceChildren(make("tr", {}, ...shown.map(heading)));
  table.tBodies[0].replaceChildren(...rows.slice(0, state.shown).map((row) => make("tr", {}, ...shown.map(cell(row)))));
  const left = rows.length - state.shown;
  $("more").hidden = left <= 0;
  $("more").textContent = `${Math.min(MORE_ROWS, left)} more of ${left.toLocaleString("en-US")} rows`;
  $("ops-note").textContent = opsNote(rows);
}

function opsNote(rows) {
  const run = current();
  const seconds = rows.reduce((sum, row) => sum + row.seconds, 0);
  const flops = rows.reduce((sum, row) => sum + row.flops, 0);
  const share = shareText(seconds, run.totals.time.step_seconds);
  const note = `${rows.length.toLocaleString("en-US")} rows, ${secondsText(seconds)} (${share} of the step), ${countText(flops, "FLOP")}.`;
  const { left_out: left, left_out_seconds: time } = run.raw.ops;
  if (state.rows !== "ops" || !left) return note;
  return `${note} The ${left.toLocaleString("en-US")} shortest ops are left out; they take ${secondsText(time)}.`;
}

// A text that a spreadsheet would take for a formula is quoted.
function csvCell(value) {
  let text = String(value);
  if (typeof value !== "number" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csvText() {
  const shown = columns();
  const line = (row) => shown.map((column) => csvCell((column.plain || column.show)(row))).join(",");
  return [shown.map((column) => csvCell(column.name)).join(","), ...filtered().map(line)].join("\n") + "\n";
}

async function copyCsv() {
  const text = csvText();
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { class: "unseen", readonly: true }, text); // a file: page has no clipboard
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  $("csv").textContent = "copied";
  setTimeout(() => ($("csv").textContent = "copy as CSV"), 1500);
}
