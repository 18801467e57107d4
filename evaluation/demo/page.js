// The page: sends images, shows the layers of the answer, and says what lies below the pointer.

import { VOID, contours, drawWheel, idsOf, imageOf, makeCanvas, paint, pixelsOf, scaleFor } from "./picture.js";

const LAYERS = [
  { key: "image", name: "Image", on: true },
  { key: "semantic", name: "Semantic", on: false },
  { key: "panoptic", name: "Panoptic", on: true },
  { key: "instances", name: "Instances", on: false },
  { key: "contours", name: "Contours", on: true },
  { key: "heatmap", name: "Centre heatmap", on: false },
  { key: "offsets", name: "Centre offsets", on: false },
];
const byId = (id) => document.getElementById(id);
const canvas = byId("canvas");
const context = canvas.getContext("2d", { willReadFrequently: true });

let model = null;
let view = null; // what is shown: the answer, its maps and its layers
let marked = null; // segment that is outlined
let pointer = { x: 0, y: 0 };
let requests = 0;

// ---- sending

async function open(body, query, name) {
  const request = ++requests;
  say(`Segmenting ${name} ...`, true);
  showError(null);
  try {
    const response = await fetch(`/segment?${query}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body,
    });
    const answer = await response.json();
    if (request !== requests) return; // a later image was chosen
    if (!response.ok) throw new Error(answer.error);
    view = await prepare(answer);
    if (request !== requests) return;
    show(answer);
  } catch (error) {
    if (request !== requests) return;
    const isLost = error instanceof TypeError;
    showError(isLost ? "The server does not answer. Is the command still running?" : error.message);
    say("", false);
  }
}

function openFile(file) {
  if (!file || !model) return;
  if (file.size > model.max_bytes) {
    const [size, most] = [file.size / 1e6, model.max_bytes / 1e6];
    requests++;
    say("", false);
    showError(`${file.name}: ${size.toFixed(1)} MB; this page takes images of up to ${most} MB; reduce it first`);
    return;
  }
  open(file, new URLSearchParams({ name: file.name || "pasted image" }), file.name || "the pasted image");
}

function say(text, isBusy) {
  byId("status").textContent = text;
  document.body.classList.toggle("busy", isBusy);
  document.body.dataset.requests = requests;
}

function showError(text) {
  byId("error").hidden = text === null;
  byId("error").textContent = text ?? "";
}

// ---- layers

async function prepare(answer) {
  const { width, height } = answer;
  const ids = idsOf(await pixelsOf(answer.panoptic));
  const semantic = idsOf(await pixelsOf(answer.semantic));
  const segments = new Map(answer.coco.annotations[0].segments_info.map((segment) => [segment.id, segment]));
  const scale = scaleFor(width, height);
  const isThing = (id) => id !== VOID && model.classes[classOf(id)].isthing;
  const colorOf = (id) => (id === VOID ? "void" : answer.colors[id]);
  const line = { color: "rgb(255 255 255 / 0.9)", thickness: 1 };
  const layers = {
    image: await imageOf(answer.image),
    semantic: paint(semantic, width, height, (id) => model.classes[id].color),
    panoptic: paint(ids, width, height, colorOf),
    instances: paint(ids, width, height, (id) => (isThing(id) ? answer.colors[id] : null)),
    contours: contours(ids, width, height, scale, isThing, line),
  };
  for (const key of ["heatmap", "offsets"]) if (answer[key]) layers[key] = await imageOf(answer[key]);
  const probability = answer.probability ? (await pixelsOf(answer.probability)).data : null;
  return { answer, width, height, scale, ids, semantic, segments, layers, probability };
}

function draw() {
  const { layers, width, height, scale } = view;
  const opacity = byId("opacity").value / 100;
  context.globalAlpha = 1;
  context.fillStyle = "#101215";
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (const { key } of LAYERS) {
    if (!layers[key] || !byId(`layer-${key}`).checked) continue;
    const isLabels = ["semantic", "panoptic", "instances", "offsets"].includes(key);
    context.globalAlpha = key === "image" || key === "contours" ? 1 : opacity;
    context.imageSmoothingEnabled = !isLabels;
    context.drawImage(layers[key], 0, 0, width * scale, height * scale);
  }
  context.globalAlpha = 1;
  if (marked !== null) {
    const style = { color: "#ffe600", thickness: 2 };
    const box = view.segments.get(marked).bbox;
    context.drawImage(contours(view.ids, width, height, scale, (id) => id === marked, style, box), 0, 0);
  }
  byId("wheel").hidden = !byId("layer-offsets").checked;
  byId("heat").hidden = !byId("layer-heatmap").checked;
}

function show(answer) {
  canvas.width = view.width * view.scale;
  canvas.height = view.height * view.scale;
  canvas.setAttribute("aria-label", `${answer.name} with what was found in it`);
  marked = null;
  pointer = { x: Math.floor(view.width / 2), y: Math.floor(view.height / 2) };
  for (const { key } of LAYERS) {
    const box = byId(`layer-${key}`);
    box.disabled = !view.layers[key];
    if (box.disabled) box.checked = false;
    box.parentElement.title = box.disabled ? "An export does not give it; start with a model folder" : "";
  }
  byId("wheel-text").textContent = `hue: direction to the centre; full colour: ${answer.offset_length} pixels`;
  byId("readout").textContent = "Point at the image.";
  for (const id of ["stage", "side"]) byId(id).hidden = false;
  byId("empty").hidden = true;
  showLegend();
  showInstances();
  draw();
  say(`${answer.name}: ${view.width} x ${view.height} pixels, ${answer.seconds} s`, false);
  document.body.dataset.shown = answer.name;
}

// ---- classes and instances

const classOf = (id) => Math.floor((id - 1) / model.label_divisor);
const numberOf = (id) => (id - 1) % model.label_divisor;

function showLegend() {
  const classes = new Map();
  for (const segment of view.segments.values()) {
    const entry = classes.get(classOf(segment.id)) ?? { area: 0, count: 0, colors: [] };
    entry.area += segment.area;
    entry.count += 1;
    entry.colors.push(view.answer.colors[segment.id]);
    classes.set(classOf(segment.id), entry);
  }
  const items = [...classes.keys()].sort((a, b) => a - b).map((id) => {
    const { name, color, isthing } = model.classes[id];
    const { area, count, colors } = classes.get(id);
    return legendItem(isthing ? splitSwatch(color, colors) : swatch(color), name, isthing ? `${count}` : "", area);
  });
  const named = [...classes.values()].reduce((sum, entry) => sum + entry.area, 0);
  const unnamed = view.width * view.height - named;
  if (unnamed > 0) items.push(legendItem(make("span", { className: "swatch void" }), "void", "", unnamed));
  byId("legend").replaceChildren(...items);
}

function legendItem(mark, name, count, area) {
  const share = (100 * area) / (view.width * view.height);
  const text = `${count ? `${count}, ` : ""}${share < 0.1 ? "< 0.1" : share.toFixed(1)} %`;
  return make("li", {}, mark, name, make("small", {}, text));
}

function showInstances() {
  const things = [...view.segments.values()].filter((segment) => model.classes[classOf(segment.id)].isthing);
  things.sort((a, b) => (b.score ?? 0) - (a.score ?? 0));
  byId("count").textContent = `${things.length}`;
  const rows = things.map((segment) => {
    const mark = make("span", { className: "class" }, swatch(view.answer.colors[segment.id]), model.classes[classOf(segment.id)].name);
    const cells = [numberOf(segment.id), segment.score?.toFixed(2) ?? "", segment.area.toLocaleString("en")];
    const head = make("th", { className: "name", scope: "row" }, mark);
    const row = make("tr", { tabIndex: 0 }, head, ...cells.map((cell) => make("td", {}, `${cell}`)));
    row.dataset.id = segment.id;
    row.addEventListener("mouseenter", () => outline(segment.id));
    row.addEventListener("mouseleave", () => outline(null));
    row.addEventListener("focus", () => outline(segment.id));
    row.addEventListener("blur", () => outline(null));
    return row;
  });
  byId("instances").replaceChildren(...rows);
}

function outline(id) {
  if (id === marked) return;
  marked = id;
  for (const row of byId("instances").rows) row.classList.toggle("here", Number(row.dataset.id) === id);
  draw();
}

// ---- what lies below the pointer

function point(x, y) {
  pointer = { x: Math.min(Math.max(x, 0), view.width - 1), y: Math.min(Math.max(y, 0), view.height - 1) };
  const at = pointer.y * view.width + pointer.x;
  const id = view.ids[at];
  const place = `x ${pointer.x}, y ${pointer.y}`;
  const sure = view.probability ? `, probability ${(view.probability[4 * at] / 255).toFixed(2)} here` : "";
  if (id === VOID) {
    const guess = model.classes[view.semantic[at]].name;
    byId("readout").replaceChildren(make("span", { className: "swatch void" }), make("span", {}, `${place}: void (most likely ${guess}${sure})`));
    outline(null);
    return;
  }
  const segment = view.segments.get(id);
  const { name, isthing } = model.classes[classOf(id)];
  const instance = isthing ? ` ${numberOf(id)}, score ${segment.score?.toFixed(2) ?? "unknown"}` : "";
  byId("readout").replaceChildren(swatch(view.answer.colors[id]), make("span", {}, `${place}: ${name}${instance}${sure}`));
  outline(isthing ? id : null);
}

canvas.addEventListener("mousemove", (event) => {
  const box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * view.width;
  const y = ((event.clientY - box.top) / box.height) * view.height;
  point(Math.floor(x), Math.floor(y));
});
canvas.addEventListener("mouseleave", () => outline(null));
canvas.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = moves[event.key];
  if (!move) return;
  event.preventDefault();
  const far = event.shiftKey ? 10 : 1;
  point(pointer.x + far * move[0], pointer.y + far * move[1]);
  drawCrosshair();
});
canvas.addEventListener("blur", () => {
  outline(null);
  draw();
});

function drawCrosshair() {
  draw();
  const [x, y] = [(pointer.x + 0.5) * view.scale, (pointer.y + 0.5) * view.scale];
  const arm = Math.max(8, canvas.width / 60);
  for (const [color, width] of [["#000", 4], ["#fff", 2]]) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + dx * 3, y + dy * 3);
      context.lineTo(x + dx * arm, y + dy * arm);
    }
    context.stroke();
  }
}

// ---- downloads

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const stem = () => view.answer.name.replace(/\.[^.]*$/, "");
byId("save-png").addEventListener("click", () => {
  const text = atob(view.answer.panoptic.split(",")[1]);
  save(new Blob([Uint8Array.from(text, (c) => c.charCodeAt(0))], { type: "image/png" }), `${stem()}.png`);
});
byId("save-json").addEventListener("click", () => {
  save(new Blob([JSON.stringify(view.answer.coco)], { type: "application/json" }), `${stem()}.json`);
});
byId("save-picture").addEventListener("click", () => {
  outline(null);
  draw();
  canvas.toBlob((blob) => save(blob, `${stem()}_picture.png`));
});

// ---- small helpers

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function swatch(color) {
  const mark = make("span", { className: "swatch" });
  mark.style.backgroundColor = `rgb(${color.join(" ")})`;
  return mark;
}

// The colour of a class, then those of its first instances.
function splitSwatch(color, colors) {
  const shown = colors.slice(0, 3);
  const stops = shown.map((one, i) => {
    const [from, to] = [i, i + 1].map((n) => 50 + (50 * n) / shown.length);
    return `rgb(${one.join(" ")}) ${from}% ${to}%`;
  });
  const mark = make("span", { className: "swatch split" });
  mark.style.background = `linear-gradient(90deg, rgb(${color.join(" ")}) 0% 50%, ${stops.join(", ")})`;
  return mark;
}

// ---- the start

for (const { key, name, on } of LAYERS) {
  const box = make("input", { type: "checkbox", id: `layer-${key}`, checked: on });
  box.addEventListener("change", draw);
  byId("layers").append(make("label", {}, box, name));
}
byId("opacity").addEventListener("input", () => {
  byId("percent").textContent = `${byId("opacity").value} %`;
  draw();
});
byId("file").addEventListener("change", (event) => {
  openFile(event.target.files[0]);
  event.target.value = ""; // the same file again is a change, too
});
let depth = 0;
addEventListener("dragenter", () => document.body.classList.toggle("dragging", ++depth > 0));
addEventListener("dragleave", () => document.body.classList.toggle("dragging", --depth > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dragging");
  openFile(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => openFile(event.clipboardData.files[0]));
drawWheel(byId("wheel-picture"));

model = await (await fetch("/model")).json();
byId("model").textContent = model.name;
byId("dataset").textContent = `${model.dataset}, ${model.classes.length} classes`;
document.title = `${model.name}: panoptic segmentation`;
byId("samples").hidden = model.samples.length === 0;
model.samples.forEach((name, number) => {
  const button = make("button", { type: "button", title: name }, make("img", { src: `/samples/${number}`, alt: name }));
  button.addEventListener("click", () => open(null, new URLSearchParams({ sample: number }), name));
  byId("samples").append(button);
});
document.body.dataset.ready = "yes";
