// What listens: the theme, the switches, and the first drawing.
"use strict";

function tip(text, x, y) {
  const element = $("tip");
  element.textContent = text;
  element.hidden = false;
  const box = element.getBoundingClientRect();
  element.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 8))}px`;
  element.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - box.height - 8))}px`;
}
function hideTip() {
  $("tip").hidden = true;
}
function theme(name) {
  state.theme = name;
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  $("theme").textContent = `${{ "": "◐ auto", light: "☀ light", dark: "☾ dark" }[name]}`;
  $("theme").setAttribute("aria-label", `colours: ${name || "as the system"}`);
  drawTimeline();
  drawFit();
  drawRoof();
}
function drawAll() {
  const phase = $("phase"),
    kept = phase.value;
  phase.replaceChildren(
    make("option", { value: "" }, "all"),
    ...[...new Set(current().phases.map((p) => p.name))].map((name) => make("option", { value: name }, words(name))),
  );
  phase.value = kept;
  drawTimeline();
  drawJumps();
  drawAlive();
  drawTree();
  drawFit();
  drawRoof();
  drawOps();
}
function toggles(selector, attribute, then) {
  for (const button of all(selector))
    button.addEventListener("click", () => {
      state[attribute] = button.dataset[attribute];
      chosen(selector, attribute, state[attribute]);
      then();
    });
}
toggles("[data-axis]", "axis", drawTimeline);
toggles("[data-by]", "by", () => {
  state.path = [];
  selected = null;
  drawTree();
});
toggles("[data-as]", "as", drawTree);
toggles("[data-rows]", "rows", () => {
  state.shown = MOST_ROWS;
  drawOps();
});
$("rolled").addEventListener("change", () => {
  state.path = [];
  selected = null;
  drawTree();
});
$("instant").addEventListener("input", (event) => choose(Number(event.target.value)));
$("unzoom").addEventListener("click", () => drawTimeline());
$("tree").addEventListener("keydown", moveInTree);
$("filter").addEventListener("input", () => {
  state.shown = MOST_ROWS;
  drawOps();
});
$("phase").addEventListener("change", () => {
  state.shown = MOST_ROWS;
  drawOps();
});
$("more").addEventListener("click", () => {
  state.shown += MORE_ROWS;
  drawOps();
});
$("csv").addEventListener("click", copyCsv);
$("theme").addEventListener("click", () => theme({ "": "light", light: "dark", dark: "" }[state.theme]));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  drawTimeline();
  drawFit();
  drawRoof();
});
let before = "";
addEventListener("beforeprint", () => {
  before = state.theme;
  theme("light");
});
addEventListener("afterprint", () => theme(before));
let waiting = 0;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    drawTimeline();
    drawTree();
    drawFit();
    drawRoof();
  }, 120);
});
if (runs.length > 1) {
  $("which").hidden = false;
  $("which").replaceChildren(
    ...data.names.map((name, i) =>
      make(
        "button",
        {
          type: "button",
          "data-run": i,
          "aria-pressed": String(i === state.run),
          onclick: () => {
            state.run = i;
            state.point = current().peak;
            state.path = [];
            selected = null;
            chosen("[data-run]", "run", String(i));
            drawAll();
          },
        },
        name,
      ),
    ),
  );
}
drawAll();
window.foretrace = { runs, state, choose, csvText, bytesText, countText, secondsText, shareText };
