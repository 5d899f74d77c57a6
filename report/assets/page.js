// The data of the page -> what is drawn, and what a click does. Names are untrusted: they become text nodes, never markup.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const words = (name) => name.replaceAll("_", " ");
  const short = (name) => name.replace(/^aten\./, "");
  const base = (file) => file.split("/").pop();

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "style") Object.assign(element.style, value);
      else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child.nodeType ? child : String(child))));
    return element;
  }

  // --- numbers as text: the same rules as report/format.py ---

  const threeDigits = (x) => x.toFixed(Math.abs(x) < 9.995 ? 2 : Math.abs(x) < 99.95 ? 1 : 0);
  function bytesText(count) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let power = 0;
    while (power < units.length - 1 && Math.abs(count) >= 1023.5 * 1024 ** power) power++;
    return power ? `${threeDigits(count / 1024 ** power)} ${units[power]}` : `${count} B`;
  }
  function countText(count, unit) {
    const units = ["", "k", "M", "G", "T", "P", "E", "Z"];
    let power = 0;
    while (power < units.length - 1 && Math.abs(count) >= 999.5 * 1000 ** power) power++;
    return `${power ? threeDigits(count / 1000 ** power) : count.toFixed(0)} ${units[power]}${unit}`;
  }
  function secondsText(seconds) {
    if (!seconds) return "0 s";
    for (const [factor, unit] of [[1, "s"], [1e3, "ms"], [1e6, "us"]]) if (seconds * factor >= 0.9995) return `${threeDigits(seconds * factor)} ${unit}`;
    return `${threeDigits(seconds * 1e9)} ns`;
  }
  function shareText(part, whole) {
    if (!whole) return "-";
    const percent = (100 * part) / whole;
    return percent > 0 && percent < 1 ? "<1 %" : `${percent.toFixed(0)} %`;
  }
  const exact = (count) => `${count.toLocaleString("en-US")} B`;
  const bytesCell = (count) => make("data", { value: count, title: exact(count) }, bytesText(count));

  // --- the data unpacked ---

  const summed = (steps) => { let last = 0; return steps.map((step) => (last += step)); };
  const rolled = (path) => path.split(".").map((part) => (/^\d+$/.test(part) ? "*" : part)).join(".");

  function unpack(run) {
    const t = run.timeline;
    const event = summed(t.event), op = summed(t.op), at = summed(t.change_point);
    const live = data.stack.map((_, category) => { const column = new Array(event.length).fill(0); column[0] = t.start[category]; return column; });
    const now = t.start.slice();
    let change = 0;
    for (let point = 0; point < event.length; point++) {
      for (; change < at.length && at[change] === point; change++) now[t.change_category[change]] += run.amounts[t.change_amount[change]];
      for (let category = 0; category < now.length; category++) live[category][point] = now[category];
    }
    const total = event.map((_, point) => live.reduce((sum, column) => sum + column[point], 0));
    const text = (index) => (index < 0 ? "" : run.texts[index]);
    const site = (index) => (index < 0 ? null : { file: text(run.sites[index][0]), line: run.sites[index][1], function: text(run.sites[index][2]) });
    const sites = run.sites.map((_, index) => site(index));
    const origin = (index) => (index < 0 ? null : { packet: text(run.origins[index][0]), module: text(run.origins[index][1]), site: sites[run.origins[index][2]] || null });
    const s = run.storages;
    const storages = s.amount.map((amount, i) => {
      const from = origin(s.origin[i]), name = text(s.name[i]);
      const holder = name.split("/")[0];
      return {
        bytes: run.amounts[amount], category: data.stack[s.category[i]], born: s.born[i], died: s.died[i], name, packet: from ? from.packet : "",
        module: name ? holder.slice(0, Math.max(holder.lastIndexOf("."), 0)) : from ? from.module : "", leaf: name ? holder.slice(holder.lastIndexOf(".") + 1) : "", site: from ? from.site : null,
      };
    });
    const peak = Math.max(event.indexOf(t.peak_event), 0);
    return { raw: run, event, op, seconds: t.seconds, live, total, storages, text, site: (i) => sites[i] || null, origin, origins: t.origin, peak, phases: run.phases, totals: run.totals };
  }
  const runs = data.runs.map(unpack);
  const state = { run: runs.length - 1, point: 0, axis: "op", by: "module", as: "flame", path: [], rows: "groups", sort: ["seconds", -1], shown: 60, theme: "" };
  const current = () => runs[state.run];
  state.point = current().peak;

  // --- colours: those of the style sheet, read anew for each theme ---

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  function chosen(selector, attribute, value) {
    for (const button of all(selector)) button.setAttribute("aria-pressed", String(button.dataset[attribute] === value));
  }

  // --- the timeline ---

  let plot = null;
  const phaseAt = (run, point) => run.phases.find((phase) => run.event[point] < phase.end_event) || run.phases[run.phases.length - 1];
  const xOf = (run) => (state.axis === "time" ? run.seconds : run.event.map((_, i) => i));
  function phaseSpans(run) {
    const spans = [];
    for (let point = 0; point < run.event.length; point++) {
      const phase = phaseAt(run, point), last = spans[spans.length - 1];
      if (!phase) continue;
      if (last && last.phase === phase) last.end = point;
      else spans.push({ phase, start: last ? last.end : point, end: point });
    }
    return spans;
  }
  // The other report's total, stretched phase by phase so that equal phases lie over each other.
  function overlay(run, other) {
    const theirs = phaseSpans(other), column = new Array(run.event.length).fill(null);
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
  function drawTimeline() {
    const run = current(), x = xOf(run), used = data.stack.map((_, i) => i).filter((i) => run.live[i].some((v) => v));
    const columns = [], below = new Array(run.event.length).fill(0);
    for (const category of used) { for (let i = 0; i < below.length; i++) below[i] += run.live[category][i]; columns.push(below.slice()); }
    columns.reverse();
    const names = used.slice().reverse().map((i) => data.stack[i]);
    const series = [{}, ...names.map((name) => ({ label: words(name), fill: colour(name), stroke: colour(name), width: 0.5, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }))];
    const drawn = [x, ...columns];
    if (runs.length > 1) {
      series.push({ label: data.names[1 - state.run], stroke: colour("ink"), width: 1.5, dash: [5, 4], points: { show: false } });
      drawn.push(overlay(run, runs[1 - state.run]));
    }
    const spans = phaseSpans(run), soft = colour("soft"), ink = colour("ink"), grid = colour("grid"), shade = colour("shade");
    if (plot) plot.destroy();
    const box = $("plot");
    const axis = { stroke: soft, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, font: "12px system-ui, sans-serif" };
    const top = Math.max(...run.total, ...(runs.length > 1 ? runs[1 - state.run].total : [])) || 1;
    plot = new uPlot({
      width: box.clientWidth || 600, height: box.clientWidth < 500 ? 260 : 340, series, legend: { show: false }, padding: [26, 10, 0, 0],
      scales: { x: { time: false }, y: { range: () => [0, top * 1.09] } },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false } },
      axes: [
        { ...axis, values: (u, ticks) => ticks.map((v) => (state.axis === "time" ? secondsText(v) : Number.isInteger(v) && v >= 0 && v < run.op.length ? Math.max(run.op[v], 0).toLocaleString("en-US") : "")), space: 70 },
        { ...axis, size: 66, incrs: [1, 2, 4, 8].flatMap((n) => [...Array(14).keys()].map((p) => n * 2 ** (4 * p))).sort((a, b) => a - b), values: (u, ticks) => ticks.map((v) => bytesText(v)), space: 42 },
      ],
      hooks: {
        drawClear: [(u) => {
          const ratio = devicePixelRatio, context = u.ctx;
          context.save();
          context.font = `${12 * ratio}px system-ui, sans-serif`; context.textAlign = "left"; context.textBaseline = "bottom";
          for (const [number, span] of spans.entries()) {
            const left = Math.max(u.valToPos(x[span.start], "x", true), u.bbox.left), right = Math.min(u.valToPos(x[span.end], "x", true), u.bbox.left + u.bbox.width);
            if (right <= left) continue;
            if (number % 2 === 0) { context.fillStyle = shade; context.fillRect(left, u.bbox.top, right - left, u.bbox.height); }
            context.fillStyle = soft;
            const name = words(span.phase.name);
            if (context.measureText(name).width + 6 * ratio < right - left) context.fillText(name, left + 3 * ratio, u.bbox.top - 5 * ratio);
          }
          context.restore();
        }],
        draw: [(u) => {
          const ratio = devicePixelRatio, context = u.ctx, peak = run.total[run.peak];
          const line = (value, label) => {
            const y = u.valToPos(value, "y", true);
            if (y < u.bbox.top) return;
            context.beginPath(); context.moveTo(u.bbox.left, y); context.lineTo(u.bbox.left + u.bbox.width, y); context.stroke();
            context.fillText(label, u.bbox.left + u.bbox.width - 4 * ratio, y - 3 * ratio);
          };
          context.save();
          context.font = `${12 * ratio}px system-ui, sans-serif`; context.fillStyle = ink; context.strokeStyle = ink; context.textAlign = "right"; context.textBaseline = "bottom"; context.lineWidth = ratio; context.setLineDash([2 * ratio, 3 * ratio]);
          line(peak, `peak ${bytesText(peak)}`);
          context.setLineDash([]);
          const at = u.valToPos(x[state.point], "x", true);
          if (at >= u.bbox.left && at <= u.bbox.left + u.bbox.width) {
            context.lineWidth = 1.5 * ratio; context.beginPath(); context.moveTo(at, u.bbox.top); context.lineTo(at, u.bbox.top + u.bbox.height); context.stroke();
            context.beginPath(); context.arc(at, u.valToPos(run.total[state.point], "y", true), 4 * ratio, 0, 7); context.fill();
          }
          context.restore();
        }],
        setScale: [(u, key) => { if (key === "x") $("unzoom").hidden = u.scales.x.min <= x[0] && u.scales.x.max >= x[x.length - 1]; }],
        setCursor: [(u) => { const i = u.cursor.idx; if (i === null || i === undefined || u.cursor.left < 0) return hideTip(); tip(`${describe(i)}\n${bytesText(run.total[i])}`, u.over.getBoundingClientRect().left + u.cursor.left, u.over.getBoundingClientRect().top + 8); }],
      },
    }, drawn, box);
    plot.over.addEventListener("click", () => { if (plot.select.width < 3 && plot.cursor.idx !== null && plot.cursor.idx !== undefined) choose(plot.cursor.idx); });
    plot.over.addEventListener("mouseleave", hideTip);
    const slide = $("instant");
    slide.max = run.event.length - 1;
    slide.value = state.point;
  }
  function describe(point) {
    const run = current();
    if (run.op[point] < 0) return "before the first op";
    const from = run.origin(run.origins[point]), where = [from.module, from.site ? `${base(from.site.file)}:${from.site.line}` : ""].filter(Boolean).join(", ");
    return `op ${run.op[point].toLocaleString("en-US")} ${short(from.packet)}${where ? `, ${where}` : ""}`;
  }
  function drawJumps() {
    const run = current(), buttons = [["start", 0], ...phaseSpans(run).map((span) => [`end of ${words(span.phase.name)}`, span.end]), ["peak", run.peak]];
    $("jumps").replaceChildren(...buttons.map(([name, point]) => make("button", { type: "button", "data-jump": name, onclick: () => choose(point) }, `${name} `, bytesText(run.total[point]))));
  }
  function choose(point) {
    state.point = point;
    $("instant").value = point;
    drawAlive();
    drawTree();
    if (plot) plot.redraw(false);
  }

  // --- what is alive at the chosen instant ---

  const aliveAt = (run, point) => { const event = run.event[point]; return run.storages.filter((s) => s.born <= event && (s.died < 0 || s.died > event)); };
  function drawAlive() {
    const run = current(), point = state.point, total = run.total[point];
    const isPeak = point === run.peak;
    $("when").textContent = `${isPeak ? "at the peak, " : ""}after ${describe(point)}`.replace("after before", "before");
    $("instant").setAttribute("aria-valuetext", `${describe(point)}: ${bytesText(total)}`);
    const rows = data.stack.map((name, i) => [name, run.live[i][point]]).filter(([, count]) => count).reverse();
    const line = (mark, name, count, kind) => make("tr", { class: kind }, make("th", { scope: "row" }, mark, name), make("td", {}, bytesCell(count)), make("td", {}, shareText(count, total)));
    $("categories").tBodies[0].replaceChildren(
      ...rows.map(([name, count]) => line(make("i", { style: { background: `var(--${name})` } }), words(name), count)),
      line("", "together", total, "total"),
    );
    const alive = aliveAt(run, point), groups = new Map();
    for (const s of alive) {
      const key = JSON.stringify([rolled(s.module), s.category, s.bytes, s.packet, s.site && s.site.file, s.site && s.site.line]);
      const group = groups.get(key);
      if (group) group.count++; else groups.set(key, { s, count: 1 });
    }
    const largest = [...groups.values()].sort((a, b) => b.s.bytes * b.count - a.s.bytes * a.count), most = 10;
    const listed = largest.slice(0, most), others = total - listed.reduce((sum, g) => sum + g.s.bytes * g.count, 0);
    const head = make("thead", {}, make("tr", {}, ...["what", "why", "each", "together", "share", "line"].map((name, i) => make("th", { scope: "col", class: i < 2 || i === 5 ? "text" : "" }, name))));
    const body = listed.map(({ s, count }) => make("tr", {},
      make("td", { class: "text", title: s.name || `${s.module} ${s.packet}` }, `${rolled(s.module) || (s.name && rolled(s.name)) || "(no module)"} ${short(s.packet)}`), make("td", { class: "text" }, words(s.category)),
      make("td", {}, count > 1 ? `${count.toLocaleString("en-US")} × ${bytesText(s.bytes)}` : ""), make("td", {}, bytesCell(s.bytes * count)), make("td", {}, shareText(s.bytes * count, total)),
      make("td", { class: "text" }, s.site ? `${base(s.site.file)}:${s.site.line}` : "")));
    if (others) body.push(make("tr", {}, make("td", { class: "text" }, `${(largest.length - listed.length).toLocaleString("en-US")} other kinds`), make("td"), make("td"), make("td", {}, bytesCell(others)), make("td", {}, shareText(others, total)), make("td")));
    $("live").replaceChildren(head, make("tbody", {}, ...body));
    $("holders-when").textContent = `${bytesText(total)} ${isPeak ? "at the peak" : `after ${describe(point)}`.replace("after before", "before")}. Choose a box to look inside and to see its code.`;
  }

  // --- the tree: flame or treemap, by module or by line ---

  function treeData() {
    const run = current(), root = { name: "all", children: new Map(), bytes: 0, path: [] };
    let counted = 0;
    for (const s of aliveAt(run, state.point)) {
      counted += s.bytes;
      let parts, last;
      const made = s.leaf || short(s.packet) || "kept from the step before";
      if (state.by === "module") { parts = s.module ? ($("rolled").checked ? rolled(s.module) : s.module).split(".") : ["(no module)"]; last = `${made} · ${words(s.category)}`; }
      else if (s.site) { parts = [base(s.site.file), s.site.function || "?", `line ${s.site.line}`]; last = `${made} · ${words(s.category)}`; }
      else { parts = ["(no line of yours)", words(s.category)]; last = s.name ? rolled(s.module) || s.leaf : short(s.packet) || "kept from the step before"; }
      let node = root;
      for (const part of [...parts, last]) {
        let child = node.children.get(part);
        if (!child) { child = { name: part, children: new Map(), bytes: 0, count: 0, by: {}, sites: new Map(), path: [...node.path, part] }; node.children.set(part, child); }
        node = child;
        node.bytes += s.bytes; node.count++;
        node.by[s.category] = (node.by[s.category] || 0) + s.bytes;
        if (s.site) { const key = `${s.site.file}:${s.site.line}`, held = node.sites.get(key) || { site: s.site, bytes: 0 }; held.bytes += s.bytes; node.sites.set(key, held); }
      }
      node.leaf = true;
    }
    root.bytes = run.total[state.point];
    if (root.bytes > counted) root.children.set("smaller ones", { name: "smaller ones", children: new Map(), bytes: root.bytes - counted, count: run.raw.storages.left_out, by: {}, sites: new Map(), path: ["smaller ones"], leaf: true });
    return root;
  }
  const mainCategory = (node) => Object.entries(node.by || {}).sort((a, b) => b[1] - a[1]).map(([name]) => name)[0];
  let selected = "";
  function drawTree() {
    const root = treeData();
    let node = root;
    for (const part of state.path) { const next = node.children.get(part); if (!next || !next.children.size) break; node = next; }
    state.path = node.path;
    const crumbs = [["everything", []], ...node.path.map((part, i) => [part, node.path.slice(0, i + 1)])];
    $("path").replaceChildren(...crumbs.flatMap(([name, path], i) => [i ? "›" : "", i === crumbs.length - 1 ? make("span", { "aria-current": "location" }, name) : make("button", { type: "button", onclick: () => { state.path = path; drawTree(); } }, name)]));
    const box = $("tree"), width = box.clientWidth, height = box.clientHeight;
    const nest = (n) => ({ node: n, value: n.children.size ? 0 : n.bytes, children: [...n.children.values()].map(nest) });
    const layout = d3.hierarchy(nest(node)).sum((d) => d.value).sort((a, b) => b.value - a.value);
    box.className = state.as;
    if (state.as === "flame") {
      const levels = Math.max(layout.height + 1, 2), row = Math.min(46, height / levels);
      d3.partition().size([width, row * levels]).round(false)(layout);
    } else d3.treemap().size([width, height]).paddingOuter(2).paddingTop((d) => (d.height ? 19 : 0)).paddingInner(1).round(true)(layout);
    const boxes = layout.descendants().filter((d) => d.x1 - d.x0 >= 2 && d.y1 - d.y0 >= 2);
    box.replaceChildren(...boxes.map((d, i) => {
      const n = d.data.node, category = d.children ? null : mainCategory(n), label = d.depth || state.path.length ? n.name : "everything";
      const large = d.x1 - d.x0 > 34 && d.y1 - d.y0 > 13;
      return make("div", {
        role: "treeitem", tabindex: i ? -1 : 0, class: d.children ? "inner" : "leaf", "aria-level": d.depth + 1, "aria-selected": String(selected === JSON.stringify(n.path)),
        "aria-label": `${label}: ${bytesText(n.bytes)}, ${shareText(n.bytes, root.bytes)}`, "data-path": JSON.stringify(n.path),
        style: { left: `${d.x0}px`, top: `${d.y0}px`, width: `${d.x1 - d.x0}px`, height: `${d.y1 - d.y0}px`, ...(category ? { background: `var(--${category})`, color: `var(--on-${category})` } : {}) },
        onclick: (event) => { event.stopPropagation(); pick(n, d.depth); }, onmousemove: (event) => tip(`${n.path.join(" › ") || "everything"}\n${bytesText(n.bytes)}, ${shareText(n.bytes, root.bytes)}${n.count > 1 ? `, ${n.count.toLocaleString("en-US")} storages` : ""}`, event.clientX, event.clientY), onmouseleave: hideTip,
      }, ...(large ? [label, " ", make("small", {}, bytesText(n.bytes))] : []));
    }));
    if (!boxes.length) box.textContent = "nothing is alive";
    showCode(node === root && !selected ? largestWithCode(root) : findNode(root, selected ? JSON.parse(selected) : node.path) || node);
  }
  function findNode(root, path) { let node = root; for (const part of path) { node = node && node.children.get(part); } return node; }
  function largestWithCode(root) { const sites = new Map(); for (const child of root.children.values()) for (const [key, held] of child.sites) { const sum = sites.get(key) || { site: held.site, bytes: 0 }; sum.bytes += held.bytes; sites.set(key, sum); } return { ...root, name: "everything", sites, by: {}, count: aliveAt(current(), state.point).length }; }
  function pick(node, depth) {
    selected = JSON.stringify(node.path);
    if (depth === 0 && state.path.length) { state.path = state.path.slice(0, -1); selected = JSON.stringify(state.path); }
    else if (node.children.size) state.path = node.path;
    drawTree();
    const again = [...$("tree").children].find((element) => element.dataset && element.dataset.path === selected);
    if (again) again.focus({ preventScroll: true });
  }
  function moveInTree(event) {
    const from = event.target, items = [...$("tree").querySelectorAll("[role=treeitem]")], place = items.indexOf(from);
    if (place < 0) return;
    const level = Number(from.getAttribute("aria-level")), path = JSON.parse(from.dataset.path);
    const same = items.filter((item) => Number(item.getAttribute("aria-level")) === level);
    const go = (item) => { if (item) { items.forEach((other) => other.setAttribute("tabindex", "-1")); item.setAttribute("tabindex", "0"); item.focus({ preventScroll: true }); event.preventDefault(); } };
    if (event.key === "ArrowRight") go(same[same.indexOf(from) + 1]);
    else if (event.key === "ArrowLeft") go(same[same.indexOf(from) - 1]);
    else if (event.key === "ArrowDown") go(items.find((item) => Number(item.getAttribute("aria-level")) === level + 1 && item.dataset.path.startsWith(from.dataset.path.slice(0, -1))));
    else if (event.key === "ArrowUp") go(items.find((item) => item.dataset.path === JSON.stringify(path.slice(0, -1))));
    else if (event.key === "Enter" || event.key === " ") { event.preventDefault(); from.click(); }
    else if (event.key === "Escape" && state.path.length) { state.path = state.path.slice(0, -1); drawTree(); go($("tree").firstElementChild); }
  }
  function showCode(node) {
    const run = current(), total = run.total[state.point], sites = [...node.sites.values()].sort((a, b) => b.bytes - a.bytes);
    const parts = [make("h3", {}, node.path.join(" › ") || "everything"), make("p", {}, `${bytesText(node.bytes)}, ${shareText(node.bytes, total)} of what is alive${node.count ? `, ${node.count.toLocaleString("en-US")} storages` : ""}`)];
    const by = Object.entries(node.by).sort((a, b) => b[1] - a[1]);
    if (by.length > 1) parts.push(make("p", {}, by.map(([name, count]) => `${words(name)} ${bytesText(count)}`).join(", ")));
    const held = new Map(sites.map(({ site, bytes }) => [`${site.file}:${site.line}`, bytes]));
    for (const { site, bytes } of sites.slice(0, 2)) {
      const lines = run.raw.sources[site.file];
      parts.push(make("p", {}, `${site.file}:${site.line}${site.function ? ` in ${site.function}` : ""}: ${bytesText(bytes)}`));
      if (!lines || !(site.line in lines)) { parts.push(make("p", {}, "This file could not be read where the page was made.")); continue; }
      const near = Object.keys(lines).map(Number).filter((n) => Math.abs(n - site.line) <= 4).sort((a, b) => a - b);
      parts.push(make("div", { class: "lines" }, ...near.map((n) => make("div", { class: n === site.line ? "here" : "" }, make("i", {}, n), make("b", {}, held.has(`${site.file}:${n}`) ? bytesText(held.get(`${site.file}:${n}`)) : ""), make("pre", {}, lines[n] || " ")))));
    }
    if (sites.length > 2) parts.push(make("p", {}, `and ${sites.length - 2} more lines`));
    if (!sites.length) parts.push(make("p", {}, "No line of your code made this: it was alive when the step began, or PyTorch made it on its own."));
    $("code").replaceChildren(...parts);
  }

  // --- ops: groups or each, sorted, filtered ---

  const boundWords = (bound) => data.bounds[bound] || bound;
  function opRows() {
    const run = current();
    if (state.rows === "groups") {
      return run.raw.groups.map(([packet, module, phase, site, bound, kind, count, tensor, vector, read, written, seconds]) =>
        ({ op: short(run.text(packet)), module: run.text(module), phase: run.text(phase), site: run.site(site), bound: run.text(bound), kind: run.text(kind), count, flops: tensor + vector, bytes: read + written, seconds }));
    }
    const ops = run.raw.ops, ids = summed(ops.id);
    return ids.map((id, i) => {
      const from = run.origin(ops.origin[i]), [tensor, vector, read, written, seconds, bound, kind, shape] = run.raw.works[ops.work[i]];
      return { op: short(from.packet), module: from.module, phase: ops.phase[i] < 0 ? "" : run.phases[ops.phase[i]].name, site: from.site, bound: run.text(bound), kind: run.text(kind), count: id, flops: tensor + vector, bytes: read + written, seconds, shape: run.text(shape) };
    });
  }
  const lineOf = (row) => (row.site ? `${base(row.site.file)}:${row.site.line}` : "");
  function columns() {
    const total = current().totals.time.step_seconds;
    return [
      { key: "op", name: "op", text: true, show: (r) => r.op },
      { key: "module", name: "module", text: true, show: (r) => r.module },
      { key: "phase", name: "phase", text: true, show: (r) => words(r.phase) },
      { key: "line", name: "line", text: true, show: lineOf, value: (r) => (r.site ? `${r.site.file}:${String(r.site.line).padStart(7, "0")}` : "") },
      { key: "count", name: state.rows === "groups" ? "ops" : "number", show: (r) => r.count.toLocaleString("en-US") },
      { key: "seconds", name: "time", show: (r) => secondsText(r.seconds), plain: (r) => r.seconds },
      { key: "share", name: "share", show: (r) => shareText(r.seconds, total), value: (r) => r.seconds, plain: (r) => (total ? r.seconds / total : 0) },
      { key: "flops", name: "FLOP", show: (r) => (r.flops ? countText(r.flops, "") : "0"), plain: (r) => r.flops },
      { key: "bytes", name: "moved", show: (r) => bytesText(r.bytes), plain: (r) => r.bytes },
      { key: "intensity", name: "FLOP/byte", show: (r) => (r.bytes ? threeDigits(r.flops / r.bytes) : ""), value: (r) => (r.bytes ? r.flops / r.bytes : -1), plain: (r) => (r.bytes ? r.flops / r.bytes : "") },
      { key: "bound", name: "spent on", text: true, show: (r) => boundWords(r.bound) },
      { key: "kind", name: "priced", text: true, show: (r) => r.kind },
      ...(state.rows === "ops" ? [{ key: "shape", name: "gives", text: true, show: (r) => r.shape }] : []),
    ];
  }
  function filtered() {
    const needles = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean), phase = $("phase").value;
    const rows = opRows().filter((row) => {
      if (phase && row.phase !== phase) return false;
      const hay = `${row.op} ${row.module} ${lineOf(row)} ${row.kind} ${boundWords(row.bound)}`.toLowerCase();
      return needles.every((needle) => hay.includes(needle));
    });
    const column = columns().find((c) => c.key === state.sort[0]) || columns()[5], value = column.value || ((r) => r[column.key]);
    return rows.sort((a, b) => { const x = value(a), y = value(b); return state.sort[1] * (x < y ? -1 : x > y ? 1 : 0); });
  }
  function drawOps() {
    const shown = columns(), rows = filtered(), run = current(), table = $("table");
    table.tHead.replaceChildren(make("tr", {}, ...shown.map((c) => make("th", { scope: "col", class: c.text ? "text" : "", "aria-sort": state.sort[0] === c.key ? (state.sort[1] > 0 ? "ascending" : "descending") : undefined },
      make("button", { type: "button", "data-sort": c.key, onclick: () => { state.sort = state.sort[0] === c.key ? [c.key, -state.sort[1]] : [c.key, c.text ? 1 : -1]; drawOps(); $("table").querySelector(`[data-sort="${c.key}"]`).focus(); } }, c.name, state.sort[0] === c.key ? (state.sort[1] > 0 ? " ↑" : " ↓") : "")))));
    table.tBodies[0].replaceChildren(...rows.slice(0, state.shown).map((row) => make("tr", {}, ...shown.map((c, i) => make("td", { class: `${c.text ? "text" : ""}${i ? "" : " name"}`, title: c.text ? c.show(row) : undefined }, c.show(row))))));
    $("more").hidden = rows.length <= state.shown;
    $("more").textContent = `${Math.min(200, rows.length - state.shown)} more of ${(rows.length - state.shown).toLocaleString("en-US")} rows`;
    const seconds = rows.reduce((sum, row) => sum + row.seconds, 0), flops = rows.reduce((sum, row) => sum + row.flops, 0);
    const left = state.rows === "ops" && run.raw.ops.left_out ? ` The ${run.raw.ops.left_out.toLocaleString("en-US")} shortest ops are left out; they take ${secondsText(run.raw.ops.left_out_seconds)}.` : "";
    $("ops-note").textContent = `${rows.length.toLocaleString("en-US")} rows, ${secondsText(seconds)} (${shareText(seconds, run.totals.time.step_seconds)} of the step), ${countText(flops, "FLOP")}.${left}`;
  }
  function csvText() {
    const cell = (value) => { let text = String(value); if (/^[=+\-@\t\r]/.test(text) && typeof value !== "number") text = `'${text}`; return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
    const shown = columns();
    return [shown.map((c) => cell(c.name)).join(","), ...filtered().map((row) => shown.map((c) => cell(c.plain ? c.plain(row) : c.key === "count" ? row.count : c.show(row))).join(","))].join("\n") + "\n";
  }
  async function copyCsv() {
    const text = csvText(), button = $("csv");
    try { await navigator.clipboard.writeText(text); } catch {
      const area = make("textarea", { class: "unseen", readonly: true }, text);
      document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
    }
    button.textContent = "copied"; setTimeout(() => { button.textContent = "copy as CSV"; }, 1500);
  }

  // --- the roofline ---

  let roof = null;
  function drawRoof() {
    const run = current(), roofs = run.raw.roofs, points = [];
    let without = 0, withoutSeconds = 0;
    for (const [packet, module, phase, site, bound, , count, tensor, vector, read, written, seconds] of run.raw.groups) {
      if (!seconds) continue;
      if (tensor + vector < 0.005 * (read + written) || read + written === 0) { without += count; withoutSeconds += seconds; continue; }
      points.push({ x: (tensor + vector) / (read + written), y: (tensor + vector) / seconds, seconds, count, bound: run.text(bound), op: short(run.text(packet)), module: run.text(module), phase: run.text(phase), site: run.site(site) });
    }
    $("roofline-note").textContent = `Predicted rate of each kind of op over its arithmetic per byte, under the limits of ${run.totals.hardware}; a larger dot takes more of the step.${without ? ` ${without.toLocaleString("en-US")} ops do next to no arithmetic and take ${secondsText(withoutSeconds)}: they are in the table.` : ""}`;
    if (roof) { roof.destroy(); roof = null; }
    const box = $("roof");
    box.replaceChildren();
    if (!points.length) { box.textContent = "No op of this step does arithmetic on the device."; return; }
    const total = run.totals.time.step_seconds, sizes = [[0.1, 15], [0.01, 10], [0, 6]], bounds = [...new Set(points.map((p) => p.bound))].sort();
    const lowest = Math.min(...points.map((p) => p.x)) / 2, most = Math.max(...roofs.flops_per_second.map(([, rate]) => rate)), highest = Math.max(Math.max(...points.map((p) => p.x)), most / roofs.bytes_per_second) * 3;
    const tables = [], series = [{}], used = new Set();
    const free = (x) => { while (used.has(x)) x *= 1 + 1e-9; used.add(x); return x; };
    const ink = colour("soft");
    tables.push([[lowest, most / roofs.bytes_per_second], [lowest * roofs.bytes_per_second, most]]);
    series.push({ stroke: ink, width: 1.5, spanGaps: true, points: { show: false } });
    for (const [, rate] of roofs.flops_per_second) { tables.push([[rate / roofs.bytes_per_second, highest], [rate, rate]]); series.push({ stroke: ink, width: 1, dash: [4, 3], spanGaps: true, points: { show: false } }); }
    for (const bound of bounds) for (const [n, [share, size]] of sizes.entries()) {
      const mine = points.filter((p) => p.bound === bound && p.seconds / total >= share && (n === 0 || p.seconds / total < sizes[n - 1][0]));
      if (!mine.length) continue;
      for (const p of mine) { p.x = free(p.x); p.size = size; }
      mine.sort((a, b) => a.x - b.x);
      tables.push([mine.map((p) => p.x), mine.map((p) => p.y)]);
      series.push({ stroke: colour(bound) || ink, paths: () => null, points: { show: true, size, width: 1, stroke: colour("card"), fill: colour(bound) || ink } });
    }
    const axis = { stroke: ink, grid: { stroke: colour("grid"), width: 1 }, ticks: { stroke: colour("grid"), width: 1 }, font: "12px system-ui, sans-serif" };
    const plain = (v) => (v >= 1 ? v.toLocaleString("en-US") : String(Number(v.toPrecision(2))));
    const decade = (v) => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-6;
    const lowestRate = Math.min(...points.map((p) => p.y)) / 3;
    const nearest = (u) => points.map((p) => ({ p, d: Math.hypot(u.valToPos(p.x, "x") - u.cursor.left, u.valToPos(p.y, "y") - u.cursor.top) - p.size / 2 })).sort((a, b) => a.d - b.d)[0];
    roof = new uPlot({
      width: box.clientWidth || 600, height: box.clientWidth < 500 ? 300 : 380, legend: { show: false }, series, padding: [10, 14, 0, 0],
      scales: { x: { time: false, distr: 3, range: () => [lowest, highest] }, y: { distr: 3, range: () => [lowestRate, most * 2.5] } },
      cursor: { x: false, y: false, points: { show: false }, drag: { x: false, y: false } },
      axes: [
        { ...axis, label: "FLOP per byte moved", labelSize: 22, labelFont: "12px system-ui, sans-serif", values: (u, ticks) => ticks.map((v) => (v && decade(v) ? plain(v) : null)) },
        { ...axis, size: 92, values: (u, ticks) => ticks.map((v) => (v && decade(v) ? countText(v, "FLOP/s").replace(".00", "") : null)) },
      ],
      hooks: {
        draw: [(u) => {
          const ratio = devicePixelRatio, c = u.ctx;
          c.save(); c.font = `${12 * ratio}px system-ui, sans-serif`; c.fillStyle = ink; c.textBaseline = "bottom"; c.textAlign = "right";
          for (const [name, rate] of roofs.flops_per_second) c.fillText(`${name}: ${countText(rate, "FLOP/s")}`, u.bbox.left + u.bbox.width - 4 * ratio, u.valToPos(rate, "y", true) - 2 * ratio);
          c.textAlign = "left";
          const x = lowest * (highest / lowest) ** 0.06, y = x * roofs.bytes_per_second;
          c.fillText(`memory: ${countText(roofs.bytes_per_second, "B/s")}`, u.valToPos(x, "x", true) - 4 * ratio, Math.min(u.valToPos(y, "y", true) - 14 * ratio, u.bbox.top + u.bbox.height - 4 * ratio));
          c.restore();
        }],
        setCursor: [(u) => {
          if (u.cursor.left < 0) return hideTip();
          const found = nearest(u);
          if (!found || found.d > 14) return hideTip();
          const p = found.p, place = u.over.getBoundingClientRect();
          tip(`${p.module} ${p.op}${p.count > 1 ? ` × ${p.count}` : ""}\n${words(p.phase)}${p.site ? `, ${base(p.site.file)}:${p.site.line}` : ""}\n${secondsText(p.seconds)}, ${shareText(p.seconds, total)} of the step\n${countText(p.y, "FLOP/s")}, ${threeDigits(p.x)} FLOP/byte: ${boundWords(p.bound)}`, place.left + u.cursor.left, place.top + u.cursor.top);
        }],
      },
    }, uPlot.join(tables), box);
    roof.over.addEventListener("mouseleave", hideTip);
    roof.over.addEventListener("click", () => { const found = nearest(roof); if (found && found.d <= 14) { $("filter").value = `${found.p.op} ${found.p.module}`; state.shown = 60; drawOps(); $("ops").scrollIntoView(); } });
    box.append(make("div", { class: "keys" }, ...bounds.map((bound) => make("span", {}, make("i", { style: { background: `var(--${bound}, var(--soft))` } }), boundWords(bound)))));
  }

  // --- the tip, the theme, and what listens ---

  function tip(text, x, y) {
    const element = $("tip");
    element.textContent = text; element.hidden = false;
    const box = element.getBoundingClientRect();
    element.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 8))}px`;
    element.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - box.height - 8))}px`;
  }
  function hideTip() { $("tip").hidden = true; }
  function theme(name) {
    state.theme = name;
    if (name) document.documentElement.dataset.theme = name; else delete document.documentElement.dataset.theme;
    $("theme").textContent = `${{ "": "◐ auto", light: "☀ light", dark: "☾ dark" }[name]}`;
    $("theme").setAttribute("aria-label", `colours: ${name || "as the system"}`);
    drawTimeline(); drawRoof();
  }
  function drawAll() {
    const phase = $("phase"), kept = phase.value;
    phase.replaceChildren(make("option", { value: "" }, "all"), ...[...new Set(current().phases.map((p) => p.name))].map((name) => make("option", { value: name }, words(name))));
    phase.value = kept;
    drawTimeline(); drawJumps(); drawAlive(); drawTree(); drawRoof(); drawOps();
  }
  function toggles(selector, attribute, then) {
    for (const button of all(selector)) button.addEventListener("click", () => { state[attribute] = button.dataset[attribute]; chosen(selector, attribute, state[attribute]); then(); });
  }
  toggles("[data-axis]", "axis", drawTimeline);
  toggles("[data-by]", "by", () => { state.path = []; selected = ""; drawTree(); });
  toggles("[data-as]", "as", drawTree);
  toggles("[data-rows]", "rows", () => { state.shown = 60; drawOps(); });
  $("rolled").addEventListener("change", () => { state.path = []; selected = ""; drawTree(); });
  $("instant").addEventListener("input", (event) => choose(Number(event.target.value)));
  $("unzoom").addEventListener("click", () => drawTimeline());
  $("tree").addEventListener("keydown", moveInTree);
  $("filter").addEventListener("input", () => { state.shown = 60; drawOps(); });
  $("phase").addEventListener("change", () => { state.shown = 60; drawOps(); });
  $("more").addEventListener("click", () => { state.shown += 200; drawOps(); });
  $("csv").addEventListener("click", copyCsv);
  $("theme").addEventListener("click", () => theme({ "": "light", light: "dark", dark: "" }[state.theme]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawTimeline(); drawRoof(); });
  let before = "";
  addEventListener("beforeprint", () => { before = state.theme; theme("light"); });
  addEventListener("afterprint", () => theme(before));
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => { drawTimeline(); drawTree(); drawRoof(); }, 120); });
  if (runs.length > 1) {
    $("which").hidden = false;
    $("which").replaceChildren(...data.names.map((name, i) => make("button", { type: "button", "data-run": i, "aria-pressed": String(i === state.run), onclick: () => {
      state.run = i; state.point = current().peak; state.path = []; selected = "";
      chosen("[data-run]", "run", String(i)); drawAll();
    } }, name)));
  }
  drawAll();
  window.foretrace = { runs, state, choose, csvText, bytesText, countText, secondsText, shareText };
})();
