"use strict";
// Everything that comes from files, their names above all, goes into the page as text, never as
// markup.

const report = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** An element with attributes and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function terms(list, pairs) {
  list.replaceChildren(...pairs.map(([term, value, kind]) =>
    make("div", kind ? { class: kind } : {}, make("dt", {}, term), make("dd", {}, value))));
}

// --- the page ---

document.title = report.title;
get("title").textContent = report.title;
get("about").textContent = report.about;
terms(get("figures"), report.figures);
terms(get("settings").querySelector("dl"), report.settings);
get("settings").hidden = !report.settings.length;

get("failures").hidden = !report.failed.length;
get("failures").querySelector("ul").append(...report.failed.map(([name, error, hint]) =>
  make("li", {}, make("strong", {}, make("bdi", {}, name)), make("span", {}, error),
    ...(hint ? [make("span", { class: "hint" }, " " + hint)] : []))));

get("skipped").hidden = !report.skipped.length;
get("skipped").querySelector("summary").textContent = `Skipped: ${report.skipped.length}`;
get("skipped").addEventListener("toggle", () => {
  get("skipped").querySelector("ul").replaceChildren(...report.skipped.map(([name, reason]) =>
    make("li", {}, make("bdi", {}, name), make("span", {}, reason))));
}, { once: true });

// --- the gallery: cards are made as they come into view ---

const PAGE = 60;
const ORDERS = {
  run: () => 0,
  change: (a, b) => (b.change ?? 0) - (a.change ?? 0),
  warnings: (a, b) => b.warnings.length - a.warnings.length,
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
};
let chosen = report.images;
let current = 0;

function card(image, index) {
  const picture = make("span", { class: "picture" });
  if (image.thumbnail) {
    picture.append(make("img", { src: image.thumbnail, alt: "", loading: "lazy", decoding: "async" }));
  }
  const text = make("span", { class: "text" },
    make("bdi", { title: image.name }, image.name.split(/[\\/]/).pop()),
    make("small", {}, image.facts[0]));
  for (const warning of image.warnings) text.append(make("small", { class: "warned" }, warning));
  const button = make("button", { class: "card", type: "button", tabindex: index ? -1 : 0 }, picture, text);
  button.addEventListener("click", () => open(index));
  return make("li", {}, button);
}

function more() {
  const shown = get("cards").children.length;
  get("cards").append(...chosen.slice(shown, shown + PAGE).map((image, i) => card(image, shown + i)));
  get("more").hidden = get("cards").children.length >= chosen.length;
}

function list() {
  const words = get("filter").value.toLowerCase();
  chosen = report.images.filter((image) => image.name.toLowerCase().includes(words));
  chosen.sort(ORDERS[get("order").value]);
  get("cards").replaceChildren();
  const all = report.images.length;
  get("count").textContent = chosen.length === all ? `${all}` : `${chosen.length} of ${all}`;
  more();
}

function focusCard(index) {
  while (get("cards").children.length <= index && !get("more").hidden) more();
  const cards = get("cards").querySelectorAll(".card");
  if (!cards[index]) return;
  for (const other of get("cards").querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  cards[index].tabIndex = 0;
  cards[index].focus();
}

get("gallery").hidden = !report.images.length;
get("filter").addEventListener("input", list);
get("order").addEventListener("change", list);
get("more").addEventListener("click", more);
new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) more();
}, { rootMargin: "600px" }).observe(get("more"));
get("cards").addEventListener("keydown", (event) => {
  const cards = [...get("cards").querySelectorAll(".card")];
  const at = cards.indexOf(event.target.closest(".card"));
  const columns = getComputedStyle(get("cards")).gridTemplateColumns.split(" ").length;
  const to = {
    ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns,
    Home: 0, End: chosen.length - 1,
  }[event.key];
  if (to === undefined || to < 0 || to >= chosen.length) return;
  event.preventDefault();
  focusCard(to);
});

// --- the viewer: both pictures follow one zoom and one centre, which keeps them in step ---

const stage = get("stage");
const sides = { before: get("before"), after: get("after") };
const MOST = 16;
const look = { zoom: 1, x: 0.5, y: 0.5, split: 50, view: "slider", detail: false };

function say(text) {
  get("live").textContent = text;
}

/** Buttons that can do nothing stay where they are, so that whoever is on one is not lost. */
function enable(button, enabled) {
  button.setAttribute("aria-disabled", !enabled);
}

function open(index) {
  show(index);
  if (!get("viewer").open) get("viewer").showModal();
  get("slider").focus();
  draw();
}

function show(index) {
  current = index;
  const image = chosen[index];
  get("name").textContent = image.name;
  get("facts").textContent = image.facts.join(" · ");
  get("remarks").replaceChildren(
    ...image.warnings.map((text) => make("li", { class: "warned" }, text)),
    ...image.notes.map((text) => make("li", {}, text)));
  get("position").textContent = `${index + 1} of ${chosen.length}`;
  enable(get("previous"), index > 0);
  enable(get("next"), index < chosen.length - 1);
  for (const side of ["before", "after"]) {
    const link = get(`open-${side}`);
    link.hidden = !image.links[side];
    if (image.links[side]) link.href = image.links[side];
    else link.removeAttribute("href");
  }
  Object.assign(look, { zoom: 1, x: 0.5, y: 0.5 });
  pictures();
  say(`${image.name}, image ${index + 1} of ${chosen.length}`);
}

/** Put the pictures of the present image, whole or in detail, into the panes. */
function pictures() {
  const image = chosen[current];
  const detailed = Boolean(image["detail-after"]);
  const detail = look.detail && detailed;
  enable(get("detail"), detailed);
  get("detail").setAttribute("aria-pressed", detail);
  for (const [side, picture] of Object.entries(sides)) {
    const source = image[detail ? `detail-${side}` : side];
    picture.alt = `${side === "before" ? "Before" : "After"}: ${image.name}`;
    picture.hidden = !source;
    if (source) picture.src = source;
    else picture.removeAttribute("src");
  }
  stage.classList.toggle("single", !image.before);
  setView(image.before ? look.view : "slider", false);
  draw();
}

function setView(view, spoken = true) {
  if (spoken && !chosen[current].before) return;
  stage.dataset.view = view;
  for (const button of document.querySelectorAll(".tools [data-view]")) {
    button.setAttribute("aria-pressed", button.dataset.view === view);
    enable(button, chosen[current].before);
  }
  if (!spoken) return;
  look.view = view;
  draw();
  // Where the slider goes, whoever was on it goes on from the pictures.
  if (document.activeElement === get("slider")) stage.focus();
  else if (view === "slider" && document.activeElement === stage) get("slider").focus();
  say({ slider: "Slider", sides: "Side by side", difference: "Difference, 4 times brighter" }[view]);
}

/** Where the pictures are in their panes: the scale, and the upper left corner. */
function place() {
  const { naturalWidth: width, naturalHeight: height } = sides.after;
  const pane = get("pane-after");
  const [across, down] = [pane.clientWidth, pane.clientHeight];
  if (!width || !across) return null;
  const fit = Math.min(across / width, down / height);
  const scale = fit * look.zoom;
  const along = (room, length, centre) => {
    if (length <= room) return 0.5;
    const half = room / 2 / length;
    return clamp(centre, half, 1 - half);
  };
  look.x = along(across, width * scale, look.x);
  look.y = along(down, height * scale, look.y);
  const left = across / 2 - look.x * width * scale;
  const top = down / 2 - look.y * height * scale;
  return { width, height, across, down, fit, scale, left, top };
}

function draw() {
  const at = place();
  if (!at) return;
  for (const picture of Object.values(sides)) {
    picture.style.transform = `translate(${at.left}px, ${at.top}px) scale(${at.scale})`;
    picture.classList.toggle("squares", at.scale * devicePixelRatio >= 2);
  }
  // The slider runs over what is seen of the picture, not over the empty room beside it.
  const from = Math.max(0, at.left);
  const to = Math.min(at.across, at.left + at.width * at.scale);
  stage.style.setProperty("--split", `${from + (to - from) * look.split / 100}px`);
  stage.classList.toggle("pans", look.zoom > 1 || look.view !== "slider");
  const split = Math.round(look.split);
  get("slider").setAttribute("aria-valuenow", split);
  get("slider").setAttribute("aria-valuetext", `${split} % before, ${100 - split} % after`);
  get("zoom").textContent = look.zoom === 1 ? "Fit" : `${Math.round(look.zoom * 100)} %`;
  enable(get("in"), look.zoom < MOST);
  for (const name of ["out", "zoom"]) enable(get(name), look.zoom > 1);
}

/** Zoom by a factor about a point of a pane, which stays where it is. */
function zoomBy(factor, x, y) {
  const before = place();
  if (!before) return;
  const px = x ?? before.across / 2;
  const py = y ?? before.down / 2;
  const u = (px - before.left) / (before.width * before.scale);
  const v = (py - before.top) / (before.height * before.scale);
  look.zoom = clamp(look.zoom * factor, 1, MOST);
  const scale = before.fit * look.zoom;
  look.x = u + (before.across / 2 - px) / (before.width * scale);
  look.y = v + (before.down / 2 - py) / (before.height * scale);
  draw();
}

function zoomSpoken(factor) {
  zoomBy(factor);
  say(look.zoom === 1 ? "Fit" : `Zoom ${Math.round(look.zoom * 100)} %`);
}

function pan(dx, dy) {
  const at = place();
  if (!at) return;
  look.x -= dx / (at.width * at.scale);
  look.y -= dy / (at.height * at.scale);
  draw();
}

function slide(split) {
  look.split = clamp(split, 0, 100);
  draw();
}

/** The split at which the slider would be under a point of the stage. */
function splitAt(x) {
  const at = place();
  if (!at) return look.split;
  const from = Math.max(0, at.left);
  const to = Math.min(at.across, at.left + at.width * at.scale);
  return (x - from) / (to - from) * 100;
}

function step(by) {
  const to = clamp(current + by, 0, chosen.length - 1);
  if (to !== current) show(to);
}

function toggleDetail() {
  if (!chosen[current]["detail-after"]) return;
  look.detail = !look.detail;
  Object.assign(look, { zoom: 1, x: 0.5, y: 0.5 });
  pictures();
  say(look.detail ? "Detail: where most changed, not scaled" : "Whole image");
}

const KEYS = {
  ArrowLeft: () => slide(look.split - 2),
  ArrowRight: () => slide(look.split + 2),
  Home: () => slide(0),
  End: () => slide(100),
  ArrowUp: () => step(-1),
  ArrowDown: () => step(1),
  PageUp: () => step(-1),
  PageDown: () => step(1),
  "+": () => zoomSpoken(1.5),
  "=": () => zoomSpoken(1.5),
  "-": () => zoomSpoken(1 / 1.5),
  "0": () => zoomSpoken(0),
  "1": () => setView("slider"),
  "2": () => setView("sides"),
  "3": () => setView("difference"),
  d: toggleDetail,
};
const PANS = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };

document.addEventListener("keydown", (event) => {
  if (!get("viewer").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.shiftKey && PANS[key]) pan(...PANS[key]);
  else if (KEYS[key]) KEYS[key]();
  else return;
  event.preventDefault();
});
get("viewer").addEventListener("close", () => focusCard(current));
get("close").addEventListener("click", () => get("viewer").close());
get("previous").addEventListener("click", () => step(-1));
get("next").addEventListener("click", () => step(1));
get("in").addEventListener("click", () => zoomSpoken(1.5));
get("out").addEventListener("click", () => zoomSpoken(1 / 1.5));
get("zoom").addEventListener("click", () => zoomSpoken(0));
get("detail").addEventListener("click", toggleDetail);
for (const button of document.querySelectorAll(".tools [data-view]")) {
  button.addEventListener("click", () => setView(button.dataset.view));
}
for (const picture of Object.values(sides)) picture.addEventListener("load", draw);
new ResizeObserver(draw).observe(stage);

// --- mouse and fingers ---

const pointers = new Map();
let sliding = false;

/** Where the mouse or a finger is in the pane it is over, or in that where it was put down. */
function inPane(event) {
  const over = (pane) => {
    const box = pane.getBoundingClientRect();
    return event.clientX < box.right && event.clientY < box.bottom;
  };
  const panes = stage.dataset.view === "sides" ? [get("pane-before")] : [];
  const pane = pointers.get(event.pointerId)?.pane ?? panes.find(over) ?? get("pane-after");
  const box = pane.getBoundingClientRect();
  return { pane, x: event.clientX - box.left, y: event.clientY - box.top };
}

stage.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  stage.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, inPane(event));
  const slider = stage.dataset.view === "slider" && !stage.classList.contains("single");
  sliding = slider && pointers.size === 1 && (event.target === get("slider") || look.zoom === 1);
  if (sliding) slide(splitAt(inPane(event).x));
  else stage.classList.add("drags");
});
stage.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = inPane(event);
  const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
  pointers.set(event.pointerId, now);
  if (other) {
    const apart = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
    sliding = false;
    zoomBy(apart(now) / apart(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
    pan((now.x - before.x) / 2, (now.y - before.y) / 2);
  } else if (sliding) slide(splitAt(now.x));
  else pan(now.x - before.x, now.y - before.y);
});
for (const end of ["pointerup", "pointercancel"]) {
  stage.addEventListener(end, (event) => {
    pointers.delete(event.pointerId);
    stage.classList.remove("drags");
  });
}
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  const { x, y } = inPane(event);
  zoomBy(Math.exp(-clamp(event.deltaY, -200, 200) / 300), x, y);
}, { passive: false });
stage.addEventListener("dblclick", (event) => {
  const { x, y } = inPane(event);
  if (look.zoom > 1) zoomSpoken(0);
  else zoomBy(4, x, y);
});

list();
