"use strict";
// Values from files, such as their names, are inserted as text, never as markup.

const byId = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Create an element with attributes and children; strings become text. */
function create(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Fill a description list with terms and values; a third item is the CSS class. */
function fillTerms(element, pairs) {
  element.replaceChildren(...pairs.map(([term, value, className = ""]) =>
    create("div", { class: className }, create("dt", {}, term), create("dd", {}, value))));
}

// --- viewer: both pictures share one zoom and one centre ---

const stage = byId("stage");
const pictures = { before: byId("before"), after: byId("after") };
const MAX_ZOOM = 16;
const VIEW_NAMES = {
  slider: "Slider", sides: "Side by side", difference: "Difference, amplified 4 times",
};
let viewed = [];
let currentIndex = 0;
const state = { zoom: 1, x: 0.5, y: 0.5, split: 50, view: "slider", detail: false };

function announce(text) {
  byId("live").textContent = text;
}

/** Enable or disable a button without taking the keyboard focus from it, as `disabled` would. */
function setEnabled(button, enabled) {
  button.setAttribute("aria-disabled", !enabled);
}

/** Show one of `images` and let the user move between them. */
function openViewer(images, index) {
  viewed = images;
  showImage(index);
  if (!byId("viewer").open) byId("viewer").showModal();
  byId("slider").focus();
  draw();
}

function showImage(index) {
  currentIndex = index;
  const image = viewed[index];
  byId("name").textContent = image.name;
  byId("facts").textContent = image.facts.join(" · ");
  byId("remarks").replaceChildren(
    ...image.warnings.map((text) => create("li", { class: "warned" }, text)),
    ...image.notes.map((text) => create("li", {}, text)));
  byId("position").textContent = `${index + 1} of ${viewed.length}`;
  setEnabled(byId("previous"), index > 0);
  setEnabled(byId("next"), index < viewed.length - 1);
  for (const side of ["before", "after"]) {
    const link = byId(`open-${side}`);
    link.hidden = !image.links[side];
    if (image.links[side]) link.href = image.links[side];
    else link.removeAttribute("href");
  }
  Object.assign(state, { zoom: 1, x: 0.5, y: 0.5 });
  loadPictures();
  announce(`${image.name}, image ${index + 1} of ${viewed.length}`);
}

/** Load the pictures of the current image, whole or its detail, into the panes. */
function loadPictures() {
  const image = viewed[currentIndex];
  const hasDetail = Boolean(image["detail-after"]);
  const detail = state.detail && hasDetail;
  setEnabled(byId("detail"), hasDetail);
  byId("detail").setAttribute("aria-pressed", detail);
  for (const [side, picture] of Object.entries(pictures)) {
    const source = image[detail ? `detail-${side}` : side];
    picture.alt = `${side === "before" ? "Before" : "After"}: ${image.name}`;
    picture.hidden = !source;
    if (source) picture.src = source;
    else picture.removeAttribute("src");
  }
  stage.classList.toggle("single", !image.before);
  applyView(image.before ? state.view : "slider");
  draw();
}

function applyView(view) {
  stage.dataset.view = view;
  for (const button of document.querySelectorAll(".tools [data-view]")) {
    button.setAttribute("aria-pressed", button.dataset.view === view);
    setEnabled(button, viewed[currentIndex].before);
  }
}

/** Switch to the view that the user chose. */
function chooseView(view) {
  if (!viewed[currentIndex].before) return;
  applyView(view);
  state.view = view;
  draw();
  // The slider disappears in other views: pass the focus between it and the stage.
  if (document.activeElement === byId("slider")) stage.focus();
  else if (view === "slider" && document.activeElement === stage) byId("slider").focus();
  announce(VIEW_NAMES[view]);
}

/** Return the scale and the upper left corner of the pictures in their panes, in CSS pixels. */
function layout() {
  const { naturalWidth: width, naturalHeight: height } = pictures.after;
  const pane = byId("pane-after");
  const [paneWidth, paneHeight] = [pane.clientWidth, pane.clientHeight];
  if (!width || !paneWidth) return null;
  const fit = Math.min(paneWidth / width, paneHeight / height);
  const scale = fit * state.zoom;
  const clampCentre = (centre, length, available) => {
    if (length <= available) return 0.5;
    const half = available / 2 / length;
    return clamp(centre, half, 1 - half);
  };
  state.x = clampCentre(state.x, width * scale, paneWidth);
  state.y = clampCentre(state.y, height * scale, paneHeight);
  const left = paneWidth / 2 - state.x * width * scale;
  const top = paneHeight / 2 - state.y * height * scale;
  // The slider spans the visible part of the picture, not the empty space beside it.
  const sliderStart = Math.max(0, left);
  const sliderEnd = Math.min(paneWidth, left + width * scale);
  return { width, height, paneWidth, paneHeight, fit, scale, left, top, sliderStart, sliderEnd };
}

function draw() {
  const box = layout();
  if (!box) return;
  for (const picture of Object.values(pictures)) {
    picture.style.transform = `translate(${box.left}px, ${box.top}px) scale(${box.scale})`;
    picture.classList.toggle("pixelated", box.scale * devicePixelRatio >= 2);
  }
  const split = box.sliderStart + (box.sliderEnd - box.sliderStart) * state.split / 100;
  stage.style.setProperty("--split", `${split}px`);
  stage.classList.toggle("pannable", state.zoom > 1 || state.view !== "slider");
  const percent = Math.round(state.split);
  byId("slider").setAttribute("aria-valuenow", percent);
  byId("slider").setAttribute("aria-valuetext", `${percent} % before, ${100 - percent} % after`);
  byId("zoom-fit").textContent = state.zoom === 1 ? "Fit" : `${Math.round(state.zoom * 100)} %`;
  setEnabled(byId("zoom-in"), state.zoom < MAX_ZOOM);
  for (const id of ["zoom-out", "zoom-fit"]) setEnabled(byId(id), state.zoom > 1);
}

/** Zoom by a factor around a point of a pane, by default its centre. */
function zoomBy(factor, x, y) {
  const before = layout();
  if (!before) return;
  const px = x ?? before.paneWidth / 2;
  const py = y ?? before.paneHeight / 2;
  const u = (px - before.left) / (before.width * before.scale);
  const v = (py - before.top) / (before.height * before.scale);
  state.zoom = clamp(state.zoom * factor, 1, MAX_ZOOM);
  const scale = before.fit * state.zoom;
  state.x = u + (before.paneWidth / 2 - px) / (before.width * scale);
  state.y = v + (before.paneHeight / 2 - py) / (before.height * scale);
  draw();
}

function zoomAndAnnounce(factor) {
  zoomBy(factor);
  announce(state.zoom === 1 ? "Fit" : `Zoom ${Math.round(state.zoom * 100)} %`);
}

function pan(dx, dy) {
  const box = layout();
  if (!box) return;
  state.x -= dx / (box.width * box.scale);
  state.y -= dy / (box.height * box.scale);
  draw();
}

function moveSlider(split) {
  state.split = clamp(split, 0, 100);
  draw();
}

/** Move the slider to a horizontal position of the stage. */
function moveSliderTo(x) {
  const box = layout();
  if (box) moveSlider((x - box.sliderStart) / (box.sliderEnd - box.sliderStart) * 100);
}

function showNeighbour(offset) {
  const index = clamp(currentIndex + offset, 0, viewed.length - 1);
  if (index !== currentIndex) showImage(index);
}

function toggleDetail() {
  if (!viewed[currentIndex]["detail-after"]) return;
  state.detail = !state.detail;
  Object.assign(state, { zoom: 1, x: 0.5, y: 0.5 });
  loadPictures();
  announce(state.detail ? "Detail: the part that changed most, not scaled" : "Whole image");
}

const KEYS = {
  ArrowLeft: () => moveSlider(state.split - 2),
  ArrowRight: () => moveSlider(state.split + 2),
  Home: () => moveSlider(0),
  End: () => moveSlider(100),
  ArrowUp: () => showNeighbour(-1),
  ArrowDown: () => showNeighbour(1),
  PageUp: () => showNeighbour(-1),
  PageDown: () => showNeighbour(1),
  "+": () => zoomAndAnnounce(1.5),
  "=": () => zoomAndAnnounce(1.5),
  "-": () => zoomAndAnnounce(1 / 1.5),
  "0": () => zoomAndAnnounce(0),
  "1": () => chooseView("slider"),
  "2": () => chooseView("sides"),
  "3": () => chooseView("difference"),
  d: toggleDetail,
};
const PANS = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };

document.addEventListener("keydown", (event) => {
  if (!byId("viewer").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.shiftKey && PANS[key]) pan(...PANS[key]);
  else if (KEYS[key]) KEYS[key]();
  else return;
  event.preventDefault();
});
byId("close").addEventListener("click", () => byId("viewer").close());
byId("previous").addEventListener("click", () => showNeighbour(-1));
byId("next").addEventListener("click", () => showNeighbour(1));
byId("zoom-in").addEventListener("click", () => zoomAndAnnounce(1.5));
byId("zoom-out").addEventListener("click", () => zoomAndAnnounce(1 / 1.5));
byId("zoom-fit").addEventListener("click", () => zoomAndAnnounce(0));
byId("detail").addEventListener("click", toggleDetail);
for (const button of document.querySelectorAll(".tools [data-view]")) {
  button.addEventListener("click", () => chooseView(button.dataset.view));
}
for (const picture of Object.values(pictures)) picture.addEventListener("load", draw);
new ResizeObserver(draw).observe(stage);

// --- mouse and touch ---

const pointers = new Map();
let sliding = false;

/** Return the position of a pointer in the pane where it was pressed, or else the pane below it. */
function pointInPane(event) {
  const contains = (pane) => {
    const box = pane.getBoundingClientRect();
    return event.clientX < box.right && event.clientY < box.bottom;
  };
  const panes = stage.dataset.view === "sides" ? [byId("pane-before")] : [];
  const pane = pointers.get(event.pointerId)?.pane ?? panes.find(contains) ?? byId("pane-after");
  const box = pane.getBoundingClientRect();
  return { pane, x: event.clientX - box.left, y: event.clientY - box.top };
}

stage.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  stage.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, pointInPane(event));
  const slider = stage.dataset.view === "slider" && !stage.classList.contains("single");
  sliding = slider && pointers.size === 1 && (event.target === byId("slider") || state.zoom === 1);
  if (sliding) moveSliderTo(pointInPane(event).x);
  else stage.classList.add("dragging");
});
stage.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = pointInPane(event);
  const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
  pointers.set(event.pointerId, now);
  if (other) {
    const distance = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
    sliding = false;
    zoomBy(distance(now) / distance(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
    pan((now.x - before.x) / 2, (now.y - before.y) / 2);
  } else if (sliding) moveSliderTo(now.x);
  else pan(now.x - before.x, now.y - before.y);
});
for (const end of ["pointerup", "pointercancel"]) {
  stage.addEventListener(end, (event) => {
    pointers.delete(event.pointerId);
    stage.classList.remove("dragging");
  });
}
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  const { x, y } = pointInPane(event);
  zoomBy(Math.exp(-clamp(event.deltaY, -200, 200) / 300), x, y);
}, { passive: false });
stage.addEventListener("dblclick", (event) => {
  const { x, y } = pointInPane(event);
  if (state.zoom > 1) zoomAndAnnounce(0);
  else zoomBy(4, x, y);
});
