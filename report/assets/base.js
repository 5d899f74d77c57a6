// Elements, and numbers as text by the rules of report/format.py. Names are untrusted: they become text nodes, never markup.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const words = (name) => name.replaceAll("_", " ");
const short = (name) => name.replace(/^aten\./, "");
const base = (file) => file.split("/").pop();
const siteKey = (site) => `${site.file}:${site.line}`;
const lineOf = (row) => (row.site ? `${base(row.site.file)}:${row.site.line}` : "");

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (value !== undefined && value !== null && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children
      .filter((child) => child !== null && child !== undefined)
      .map((child) => (child.nodeType ? child : String(child))),
  );
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
  const units = { s: 1, ms: 1e3, us: 1e6 };
  const unit = Object.keys(units).find((name) => seconds * units[name] >= 0.9995);
  return unit ? `${threeDigits(seconds * units[unit])} ${unit}` : `${threeDigits(seconds * 1e9)} ns`;
}
function shareText(part, whole) {
  if (!whole) return "-";
  const percent = (100 * part) / whole;
  return percent > 0 && percent < 1 ? "<1 %" : `${percent.toFixed(0)} %`;
}
const exact = (count) => `${count.toLocaleString("en-US")} B`;
const bytesCell = (count) => make("data", { value: count, title: exact(count) }, bytesText(count));
