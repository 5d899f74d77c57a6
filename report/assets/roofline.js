// The kinds of ops -> a scatter of their predicted rates under the roofs of the device.
"use strict";

const NEXT_TO_NO_FLOPS_PER_BYTE = 0.005;
const DOTS = [
  { least: 0.1, size: 17 },
  { least: 0.01, size: 12 },
  { least: 0, size: 8 },
];
const NEAR = 14;
const NARROW = 500;
let roof = null;

const kindOfOp = (run) => (row) => {
  const [packet, module, phase, site, bound, , count, tensor, vector, read, written, seconds, skipped] = row;
  return {
    op: short(run.text(packet)),
    module: run.text(module),
    phase: run.text(phase),
    site: run.site(site),
    bound: run.text(bound),
    count,
    flops: tensor + vector,
    done: tensor + vector - skipped, // without what a causal mask lets a kernel leave out
    bytes: read + written,
    seconds,
  };
};

const canBeDrawn = (kind) => kind.bytes && kind.done > NEXT_TO_NO_FLOPS_PER_BYTE * kind.bytes;

// On logarithmic axes: x is FLOPs per byte, y FLOPs per second.
function dotsOf(kinds, total) {
  const used = new Set();
  return kinds.filter(canBeDrawn).map((kind) => {
    let x = kind.done / kind.bytes;
    while (used.has(x)) x *= 1 + 1e-9; // the chart wants each x once
    used.add(x);
    const size = DOTS.find(({ least }) => kind.seconds / total >= least).size;
    return { ...kind, x, y: kind.done / kind.seconds, size };
  });
}

function roofNote(run, kinds) {
  const left = kinds.filter((kind) => !canBeDrawn(kind));
  const count = left.reduce((sum, kind) => sum + kind.count, 0);
  const seconds = left.reduce((sum, kind) => sum + kind.seconds, 0);
  const rest = count
    ? ` ${count.toLocaleString("en-US")} ops do next to no arithmetic and take ${secondsText(seconds)}: they are in the table.`
    : "";
  return `Predicted rate of each kind of op over its arithmetic per byte, under the limits of ${run.totals.hardware}; a larger dot takes more of the step.${rest}`;
}

function rangeOf(dots, roofs) {
  const most = Math.max(...roofs.flops_per_second.map(([, rate]) => rate));
  const ridge = most / roofs.bytes_per_second;
  return {
    most,
    left: 10 ** Math.floor(Math.log10(Math.min(...dots.map((dot) => dot.x), ridge))),
    right: Math.max(...dots.map((dot) => dot.x), ridge) * 3,
    // a power of ten, from which the chart counts its ticks
    bottom: 10 ** Math.floor(Math.log10(Math.min(...dots.map((dot) => dot.y)) / 3)),
  };
}

// Tables and series of the lines: the memory's slope, and a flat roof for each unit.
function roofLines(roofs, range) {
  const ink = colour("soft");
  const plain = { stroke: ink, spanGaps: true, points: { show: false } };
  const bandwidth = roofs.bytes_per_second;
  const slope = {
    table: [
      [range.left, range.most / bandwidth],
      [range.left * bandwidth, range.most],
    ],
    series: { ...plain, width: 1.5 },
  };
  const flat = roofs.flops_per_second.map(([, rate]) => ({
    table: [
      [rate / bandwidth, range.right],
      [rate, rate],
    ],
    series: { ...plain, width: 1, dash: [4, 3] },
  }));
  return [slope, ...flat];
}

// One series for each colour and size of dot.
function dotSeries(dots) {
  const groups = new Map();
  for (const dot of [...dots].sort((a, b) => a.x - b.x)) {
    const key = `${dot.bound} ${dot.size}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(dot);
  }
  return [...groups.values()].map((group) => {
    const fill = colour(group[0].bound) || colour("soft");
    const points = { show: true, size: group[0].size, width: 1, stroke: colour("card"), fill };
    return {
      table: [group.map((dot) => dot.x), group.map((dot) => dot.y)],
      series: { stroke: fill, paths: () => null, points },
    };
  });
}

function roofAxes() {
  const isDecade = (v) => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-6;
  const decades = (u, ticks) => ticks.map((v) => (isDecade(v) ? v : null));
  const plain = (v) => (v >= 1 ? v.toLocaleString("en-US") : String(Number(v.toPrecision(2))));
  const rate = (v) => countText(v, "FLOP/s").replace(/\.0+ /, " ");
  const labels = (text) => (u, ticks) => ticks.map((v) => (v === null ? null : text(v)));
  const axis = { ...themedAxis(), filter: decades };
  axis.grid = { ...axis.grid, filter: decades };
  axis.ticks = { ...axis.ticks, filter: decades };
  return [
    { ...axis, label: "FLOP per byte moved", labelSize: 22, labelFont: FONT, values: labels(plain) },
    { ...axis, size: 100, values: labels(rate) },
  ];
}

const roofNames = (roofs) => ({
  memory: `memory: ${countText(roofs.bytes_per_second, "B/s")}`,
  units: roofs.flops_per_second.map(([name, rate]) => ({ rate, text: `${name}: ${countText(rate, "FLOP/s")}` })),
});

// Left of where a roof begins nothing can be, since all dots lie below the slope; a narrow chart has no room there.
function nameRoofs(u, roofs, range) {
  if (u.width < NARROW) return;
  const ratio = devicePixelRatio;
  const context = pen(u, colour("soft"));
  const { memory, units } = roofNames(roofs);
  context.save();
  context.textAlign = "right";
  for (const { rate, text } of units) {
    const begin = u.valToPos(rate / roofs.bytes_per_second, "x", true);
    context.fillText(text, begin - 8 * ratio, u.valToPos(rate, "y", true) + 4 * ratio);
  }
  context.textAlign = "left";
  const x = range.left * (range.right / range.left) ** 0.02;
  const y = Math.min(u.valToPos(x * roofs.bytes_per_second, "y", true), u.bbox.top + u.bbox.height);
  context.fillText(memory, u.valToPos(x, "x", true), y - 34 * ratio);
  context.restore();
}

function nearest(u, dots) {
  const distance = (dot) =>
    Math.hypot(u.valToPos(dot.x, "x") - u.cursor.left, u.valToPos(dot.y, "y") - u.cursor.top) - dot.size / 2;
  const [found] = dots.map((dot) => ({ dot, far: distance(dot) })).sort((a, b) => a.far - b.far);
  return found && found.far <= NEAR ? found.dot : null;
}

function tipOfDot(u, dot, total) {
  const place = u.over.getBoundingClientRect();
  const lines = [
    `${dot.module} ${dot.op}${dot.count > 1 ? ` × ${dot.count}` : ""}`,
    [words(dot.phase), lineOf(dot)].filter(Boolean).join(", "),
    `${secondsText(dot.seconds)}, ${shareText(dot.seconds, total)} of the step`,
    `${countText(dot.y, "FLOP/s")}, ${threeDigits(dot.x)} FLOP/byte: ${boundWords(dot.bound)}`,
  ];
  tip(lines.join("\n"), place.left + u.cursor.left, place.top + u.cursor.top);
}

function filterBy(dot) {
  $("filter").value = `${dot.op} ${dot.module}`;
  state.shown = MOST_ROWS;
  drawOps();
  $("ops").scrollIntoView();
}

function drawRoof() {
  const run = current();
  const roofs = run.raw.roofs;
  const total = run.totals.time.step_seconds;
  const kinds = run.raw.groups.map(kindOfOp(run)).filter((kind) => kind.seconds);
  const dots = dotsOf(kinds, total);
  const box = $("roof");
  if (roof) roof.destroy();
  roof = null;
  box.replaceChildren();
  $("roofline-note").textContent = roofNote(run, kinds);
  if (!dots.length) {
    box.textContent = "No op of this step does arithmetic on the device.";
    return;
  }
  const range = rangeOf(dots, roofs);
  const parts = [...roofLines(roofs, range), ...dotSeries(dots)];
  const show = (u) => {
    const dot = u.cursor.left < 0 ? null : nearest(u, dots);
    return dot ? tipOfDot(u, dot, total) : hideTip();
  };
  roof = new uPlot(
    {
      width: box.clientWidth || 600,
      height: box.clientWidth < NARROW ? 300 : 380,
      legend: { show: false },
      series: [{}, ...parts.map((part) => part.series)],
      padding: [14, 14, 0, 0],
      scales: {
        x: { time: false, distr: 3, range: () => [range.left, range.right] },
        y: { distr: 3, range: () => [range.bottom, range.most * 2.5] },
      },
      cursor: { x: false, y: false, points: { show: false }, drag: { x: false, y: false } },
      axes: roofAxes(),
      hooks: { draw: [(u) => nameRoofs(u, roofs, range)], setCursor: [show] },
    },
    uPlot.join(parts.map((part) => part.table)),
    box,
  );
  roof.over.addEventListener("mouseleave", hideTip);
  roof.over.addEventListener("click", () => {
    const dot = nearest(roof, dots);
    if (dot) filterBy(dot);
  });
  box.append(roofKeys(dots, box.clientWidth < NARROW ? roofs : null));
}

function roofKeys(dots, roofs) {
  const swatch = (bound) => make("i", { style: { background: `var(--${bound}, var(--soft))` } });
  const bounds = [...new Set(dots.map((dot) => dot.bound))].sort();
  const keys = bounds.map((bound) => make("span", {}, swatch(bound), boundWords(bound)));
  if (roofs) {
    const { memory, units } = roofNames(roofs);
    keys.push(...[memory, ...units.map(({ text }) => text)].map((text) => make("span", {}, `― ${text}`)));
  }
  return make("div", { class: "keys" }, ...keys);
}
