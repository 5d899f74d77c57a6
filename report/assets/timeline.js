// A run -> the stacked memory timeline, its phases, its peak, and the chosen instant.
"use strict";

const FONT = "12px system-ui, sans-serif";
let plot = null;

const phaseAt = (run, point) =>
  run.phases.find((phase) => run.event[point] < phase.end_event) || run.phases[run.phases.length - 1];

// Each phase with the points at which it starts and ends.
function phaseSpans(run) {
  const spans = [];
  for (let point = 0; point < run.event.length; point++) {
    const phase = phaseAt(run, point);
    const last = spans[spans.length - 1];
    if (!phase) continue;
    if (last && last.phase === phase) last.end = point;
    else spans.push({ phase, start: last ? last.end : point, end: point });
  }
  return spans;
}

// The other report's total, stretched phase by phase so that equal phases lie over each other.
function overlay(run, other) {
  const theirs = phaseSpans(other);
  const column = new Array(run.event.length).fill(null);
  for (const [number, span] of phaseSpans(run).entries()) {
    const match = theirs[number];
    if (!match) continue;
    for (let point = span.start; point <= span.end; point++) {
      const share = span.end > span.start ? (point - span.start) / (span.end - span.start) : 1;
      column[point] = other.total[Math.round(match.start + share * (match.end - match.start))];
    }
  }
  return column;
}

// Sums of the categories from the bottom, the highest first: each area is drawn over the one before.
function stacked(run) {
  const below = new Array(run.event.length).fill(0);
  const areas = [];
  for (const [category, name] of data.stack.entries()) {
    if (!run.live[category].some(Boolean)) continue;
    for (let i = 0; i < below.length; i++) below[i] += run.live[category][i];
    areas.unshift({ name, column: below.slice() });
  }
  return areas;
}

const area = ({ name }) => ({
  label: words(name),
  fill: colour(name),
  stroke: colour(name),
  width: 0.5,
  paths: uPlot.paths.stepped({ align: 1 }),
  points: { show: false },
});

const themedAxis = () => ({
  stroke: colour("soft"),
  grid: { stroke: colour("grid"), width: 1 },
  ticks: { stroke: colour("grid"), width: 1 },
  font: FONT,
});

function opNumbers(run, points) {
  let last = "";
  return points.map((point) => {
    const inside = Number.isInteger(point) && point >= 0 && point < run.op.length;
    const label = inside ? Math.max(run.op[point], 0).toLocaleString("en-US") : "";
    if (label === last) return "";
    last = label;
    return label;
  });
}

function timelineAxes(run) {
  const binary = [1, 2, 4, 8].flatMap((n) => [...Array(14).keys()].map((p) => n * 2 ** (4 * p)));
  return [
    {
      ...themedAxis(),
      space: 70,
      values: (u, ticks) => (state.axis === "time" ? ticks.map(secondsText) : opNumbers(run, ticks)),
    },
    {
      ...themedAxis(),
      size: 66,
      space: 42,
      incrs: binary.sort((a, b) => a - b),
      values: (u, ticks) => ticks.map(bytesText),
    },
  ];
}

function pen(u, ink) {
  const context = u.ctx;
  context.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
  context.fillStyle = context.strokeStyle = ink;
  context.textBaseline = "bottom";
  return context;
}

function shadePhases(u, run, x) {
  const ratio = devicePixelRatio;
  const context = pen(u, colour("soft"));
  context.save();
  context.textAlign = "left";
  for (const [number, span] of phaseSpans(run).entries()) {
    const left = Math.max(u.valToPos(x[span.start], "x", true), u.bbox.left);
    const right = Math.min(u.valToPos(x[span.end], "x", true), u.bbox.left + u.bbox.width);
    if (right <= left) continue;
    if (number % 2 === 0) {
      context.fillStyle = colour("shade");
      context.fillRect(left, u.bbox.top, right - left, u.bbox.height);
    }
    context.fillStyle = colour("soft");
    const name = words(span.phase.name);
    if (context.measureText(name).width + 6 * ratio < right - left)
      context.fillText(name, left + 3 * ratio, u.bbox.top - 5 * ratio);
  }
  context.restore();
}

function markPeak(u, run) {
  const ratio = devicePixelRatio;
  const peak = run.total[run.peak];
  const y = u.valToPos(peak, "y", true);
  const right = u.bbox.left + u.bbox.width;
  const context = pen(u, colour("ink"));
  context.save();
  context.textAlign = "right";
  context.lineWidth = ratio;
  context.setLineDash([2 * ratio, 3 * ratio]);
  line(context, u.bbox.left, y, right, y);
  context.fillText(`peak ${bytesText(peak)}`, right - 4 * ratio, y - 3 * ratio);
  context.restore();
}

function markInstant(u, run, x) {
  const ratio = devicePixelRatio;
  const at = u.valToPos(x[state.point], "x", true);
  if (at < u.bbox.left || at > u.bbox.left + u.bbox.width) return;
  const context = pen(u, colour("ink"));
  context.save();
  context.lineWidth = 1.5 * ratio;
  context.setLineDash([]); // the other report's line is dashed
  line(context, at, u.bbox.top, at, u.bbox.top + u.bbox.height);
  context.beginPath();
  context.arc(at, u.valToPos(run.total[state.point], "y", true), 4 * ratio, 0, 7);
  context.fill();
  context.restore();
}

function line(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

function timelineHooks(run, x) {
  return {
    drawClear: [(u) => shadePhases(u, run, x)],
    draw: [(u) => markPeak(u, run), (u) => markInstant(u, run, x)],
    setScale: [
      (u, key) => {
        if (key === "x") $("unzoom").hidden = u.scales.x.min <= x[0] && u.scales.x.max >= x[x.length - 1];
      },
    ],
    setCursor: [
      (u) => {
        const point = u.cursor.idx;
        if (point === null || point === undefined || u.cursor.left < 0) return hideTip();
        const place = u.over.getBoundingClientRect();
        tip(`${describe(point)}\n${bytesText(run.total[point])}`, place.left + u.cursor.left, place.top + 8);
      },
    ],
  };
}

function drawTimeline() {
  const run = current();
  const other = runs.length > 1 ? runs[1 - state.run] : null;
  const x = state.axis === "time" ? run.seconds : run.event.map((_, i) => i);
  const areas = stacked(run);
  const series = [{}, ...areas.map(area)];
  const columns = [x, ...areas.map(({ column }) => column)];
  if (other) {
    const label = data.names[1 - state.run];
    series.push({ label, stroke: colour("ink"), width: 1.5, dash: [5, 4], points: { show: false } });
    columns.push(overlay(run, other));
  }
  const highest = Math.max(...run.total, ...(other ? other.total : [])) || 1;
  const box = $("plot");
  if (plot) plot.destroy();
  plot = new uPlot(
    {
      width: box.clientWidth || 600,
      height: box.clientWidth < 500 ? 260 : 340,
      series,
      legend: { show: false },
      padding: [26, 10, 0, 0],
      scales: { x: { time: false }, y: { range: () => [0, highest * 1.09] } },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false } },
      axes: timelineAxes(run),
      hooks: timelineHooks(run, x),
    },
    columns,
    box,
  );
  plot.over.addEventListener("click", () => {
    if (plot.select.width < 3 && Number.isInteger(plot.cursor.idx)) choose(plot.cursor.idx);
  });
  plot.over.addEventListener("mouseleave", hideTip);
  $("instant").max = run.event.length - 1;
  $("instant").value = state.point;
}

function describe(point) {
  const run = current();
  if (run.op[point] < 0) return "before the first op";
  const from = run.origin(run.origins[point]);
  const where = [from.module, lineOf(from)].filter(Boolean).join(", ");
  return `op ${run.op[point].toLocaleString("en-US")} ${short(from.packet)}${where ? `, ${where}` : ""}`;
}

function drawJumps() {
  const run = current();
  const ends = phaseSpans(run).map((span) => [`end of ${words(span.phase.name)}`, span.end]);
  const button = ([name, point]) =>
    make(
      "button",
      { type: "button", "data-jump": name, onclick: () => choose(point) },
      `${name} `,
      bytesText(run.total[point]),
    );
  $("jumps").replaceChildren(...[["start", 0], ...ends, ["peak", run.peak]].map(button));
}

function choose(point) {
  state.point = point;
  $("instant").value = point;
  drawAlive();
  drawTree();
  if (plot) plot.redraw(false);
}
