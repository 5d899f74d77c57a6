// The data of the page, unpacked: one run for each report, and the state of what is shown.
"use strict";

const summed = (steps) => {
  let last = 0;
  return steps.map((step) => (last += step));
};
const rolled = (path) =>
  path
    .split(".")
    .map((part) => (/^\d+$/.test(part) ? "*" : part))
    .join(".");

// Bytes of each category at each point: the start, and the changes summed up.
function liveBytes(run) {
  const t = run.timeline;
  const at = summed(t.change_point);
  const now = t.start.slice();
  const live = now.map(() => []);
  let change = 0;
  for (let point = 0; point < t.event.length; point++) {
    for (; at[change] === point; change++) now[t.change_category[change]] += run.amounts[t.change_amount[change]];
    for (const [category, column] of live.entries()) column.push(now[category]);
  }
  return live;
}

function unpackStorages(run, text, origin) {
  const s = run.storages;
  return s.amount.map((amount, i) => {
    const from = origin(s.origin[i]) || { packet: "", module: "", site: null };
    const name = text(s.name[i]);
    const holder = name.split("/")[0];
    const dot = holder.lastIndexOf(".");
    return {
      bytes: run.amounts[amount],
      category: data.stack[s.category[i]],
      born: s.born[i],
      died: s.died[i],
      name,
      packet: from.packet,
      module: name ? holder.slice(0, Math.max(dot, 0)) : from.module,
      leaf: holder.slice(dot + 1),
      site: from.site,
    };
  });
}

function unpack(run) {
  const text = (index) => (index < 0 ? "" : run.texts[index]);
  const sites = run.sites.map(([file, line, name]) => ({ file: text(file), line, function: text(name) }));
  const site = (index) => sites[index] || null;
  const origins = run.origins.map(([packet, module, line]) => ({
    packet: text(packet),
    module: text(module),
    site: site(line),
  }));
  const origin = (index) => origins[index] || null;
  const live = liveBytes(run);
  const event = summed(run.timeline.event);
  return {
    raw: run,
    event,
    op: summed(run.timeline.op),
    seconds: run.timeline.seconds,
    live,
    total: event.map((_, point) => live.reduce((sum, column) => sum + column[point], 0)),
    storages: unpackStorages(run, text, origin),
    text,
    site,
    origin,
    origins: run.timeline.origin,
    peak: Math.max(event.indexOf(run.timeline.peak_event), 0),
    phases: run.phases,
    totals: run.totals,
  };
}

const runs = data.runs.map(unpack);
const state = {
  run: runs.length - 1,
  point: 0,
  axis: "op",
  by: "module",
  as: "flame",
  path: [],
  rows: "groups",
  sort: ["seconds", -1],
  shown: 60, // rows of the table,
  theme: "",
};
const current = () => runs[state.run];
state.point = current().peak;

// --- colours: those of the style sheet, read anew for each theme ---

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
function chosen(selector, attribute, value) {
  for (const button of all(selector)) button.setAttribute("aria-pressed", String(button.dataset[attribute] === value));
}
