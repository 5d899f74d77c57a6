// The curve of the peak over a size -> a slider, what holds at its stop, and the chart with the limit.
"use strict";

let curve = null;
const fit = data.fit;
const isWhole = (stop) => fit.value[stop].toLocaleString("en-US");

// What the step at a stop of the slider asks for, beside what there is.
function fitWords(stop) {
  const [value, peak] = [fit.value[stop], fit.peak_bytes[stop]];
  const share = `${bytesText(peak)} of ${bytesText(fit.limit_bytes)}, ${shareText(peak, fit.limit_bytes)}`;
  const where = fit.points[fit.point[stop]];
  const at = where ? `, highest in ${where}` : "";
  if (value > fit.largest) return ["No", `${share}: ${bytesText(peak - fit.limit_bytes)} too much${at}`];
  if (fit.largest_reserved !== null && value > fit.largest_reserved)
    return ["No", `${share}: the tensors fit, but not what the caching allocator reserves for them${at}`];
  const spare = value > fit.largest_with_headroom ? ", with next to nothing left" : "";
  return ["Yes", `${share}${spare}${at}`];
}

function sayFit() {
  const stop = state.stop;
  const [answer, about] = fitWords(stop);
  $("size-value").textContent = isWhole(stop);
  $("size").setAttribute("aria-valuetext", `${isWhole(stop)}: ${answer}, ${about}`);
  const bytes = make("data", { value: fit.peak_bytes[stop], title: exact(fit.peak_bytes[stop]) }, about);
  $("size-says").replaceChildren(make("b", { class: answer === "Yes" ? "less" : "more" }, answer), " ", bytes);
}

function markStop(u) {
  const ratio = devicePixelRatio;
  const context = pen(u, colour("ink"));
  const [x, y] = [u.valToPos(fit.value[state.stop], "x", true), u.valToPos(fit.peak_bytes[state.stop], "y", true)];
  const limit = u.valToPos(fit.limit_bytes, "y", true);
  const right = u.bbox.left + u.bbox.width;
  context.save();
  context.lineWidth = ratio;
  context.setLineDash([5 * ratio, 4 * ratio]);
  context.strokeStyle = context.fillStyle = colour("bad");
  line(context, u.bbox.left, limit, right, limit);
  context.textAlign = "left";
  context.fillText(`limit ${bytesText(fit.limit_bytes)}`, u.bbox.left + 4 * ratio, limit - 3 * ratio);
  context.setLineDash([]);
  context.strokeStyle = context.fillStyle = colour("ink");
  line(context, x, u.bbox.top, x, u.bbox.top + u.bbox.height);
  context.beginPath();
  context.arc(x, y, 4.5 * ratio, 0, 7);
  context.fill();
  context.restore();
}

function drawFit() {
  if (!fit) return;
  const box = $("curve");
  const few = fit.value.length < 40;
  const most = Math.max(...fit.peak_bytes, fit.limit_bytes);
  const binary = [1, 2, 4, 8].flatMap((n) => [...Array(14).keys()].map((p) => n * 2 ** (4 * p)));
  if (curve) curve.destroy();
  curve = new uPlot(
    {
      width: box.clientWidth || 600,
      height: box.clientWidth < 500 ? 220 : 260,
      legend: { show: false },
      padding: [16, 14, 0, 0],
      series: [{}, { stroke: colour("accent"), width: 2, points: { show: few, size: 6, fill: colour("accent") } }],
      scales: { x: { time: false, range: (u, min, max) => [Math.min(min, 0), max] }, y: { range: () => [0, most * 1.09] } },
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      axes: [
        { ...themedAxis(), label: words(fit.name), labelSize: 22, labelFont: FONT, incrs: [1, 2, 5].flatMap((n) => [...Array(8).keys()].map((p) => n * 10 ** p)).sort((a, b) => a - b) },
        { ...themedAxis(), size: 66, space: 42, incrs: binary.sort((a, b) => a - b), values: (u, ticks) => ticks.map(bytesText) },
      ],
      hooks: {
        draw: [markStop],
        setCursor: [
          (u) => {
            const stop = u.cursor.idx;
            if (stop === null || stop === undefined || u.cursor.left < 0) return hideTip();
            const place = u.over.getBoundingClientRect();
            tip(`${fit.name} ${isWhole(stop)}\n${bytesText(fit.peak_bytes[stop])}`, place.left + u.cursor.left, place.top + 8);
          },
        ],
      },
    },
    [fit.value, fit.peak_bytes],
    box,
  );
  curve.over.addEventListener("click", () => {
    if (Number.isInteger(curve.cursor.idx)) chooseSize(curve.cursor.idx);
  });
  curve.over.addEventListener("mouseleave", hideTip);
  $("size").max = fit.value.length - 1;
  $("size").value = state.stop;
  sayFit();
}

function chooseSize(stop) {
  state.stop = stop;
  $("size").value = stop;
  sayFit();
  if (curve) curve.redraw(false);
}

if (fit) {
  state.stop = Math.max(fit.value.indexOf(fit.now), 0);
  $("size").addEventListener("input", (event) => chooseSize(Number(event.target.value)));
}
