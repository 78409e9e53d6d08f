// --- the page of a report ---

const report = JSON.parse(byId("data").textContent);

// --- summary, failures and settings ---

document.title = report.title;
byId("title").textContent = report.title;
byId("about").textContent = report.about;
fillTerms(byId("figures"), report.figures);
fillTerms(byId("settings").querySelector("dl"), report.settings);
byId("settings").hidden = !report.settings.length;

byId("failures").hidden = !report.failed.length;
byId("failures").querySelector("ul").append(...report.failed.map(([name, error, hint]) =>
  create("li", {}, create("strong", {}, create("bdi", {}, name)), create("span", {}, error),
    ...(hint ? [create("span", { class: "hint" }, hint)] : []))));

byId("skipped").hidden = !report.skipped.length;
byId("skipped").querySelector("summary").textContent = `Skipped: ${report.skipped.length}`;
byId("skipped").addEventListener("toggle", () => {
  byId("skipped").querySelector("ul").replaceChildren(...report.skipped.map(([name, reason]) =>
    create("li", {}, create("bdi", {}, name), create("span", {}, reason))));
}, { once: true });

// --- gallery: cards are created as they scroll into view ---

const CARDS_PER_STEP = 60;
const ORDERS = {
  run: () => 0,
  change: (a, b) => (b.change ?? 0) - (a.change ?? 0),
  warnings: (a, b) => b.warnings.length - a.warnings.length,
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
};
let matching = report.images;

function createCard(image, index) {
  const picture = create("span", { class: "picture" });
  if (image.thumbnail) {
    const attributes = { src: image.thumbnail, alt: "", loading: "lazy", decoding: "async" };
    picture.append(create("img", attributes));
  }
  const text = create("span", { class: "text" },
    create("bdi", { title: image.name }, image.name.split(/[\\/]/).pop()),
    create("small", {}, image.facts[0]));
  for (const warning of image.warnings) text.append(create("small", { class: "warned" }, warning));
  const attributes = { class: "card", type: "button", tabindex: index ? -1 : 0 };
  const button = create("button", attributes, picture, text);
  button.addEventListener("click", () => openViewer(matching, index));
  return create("li", {}, button);
}

function addCards() {
  const shown = byId("cards").children.length;
  const added = matching.slice(shown, shown + CARDS_PER_STEP);
  byId("cards").append(...added.map((image, i) => createCard(image, shown + i)));
  byId("more").hidden = byId("cards").children.length >= matching.length;
}

function updateGallery() {
  const text = byId("filter").value.toLowerCase();
  matching = report.images.filter((image) => image.name.toLowerCase().includes(text));
  matching.sort(ORDERS[byId("order").value]);
  byId("cards").replaceChildren();
  const all = report.images.length;
  byId("count").textContent = matching.length === all ? `${all}` : `${matching.length} of ${all}`;
  addCards();
}

function focusCard(index) {
  while (byId("cards").children.length <= index && !byId("more").hidden) addCards();
  const cards = byId("cards").querySelectorAll(".card");
  if (!cards[index]) return;
  for (const other of byId("cards").querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  cards[index].tabIndex = 0;
  cards[index].focus();
}

byId("gallery").hidden = !report.images.length;
byId("filter").addEventListener("input", updateGallery);
byId("order").addEventListener("change", updateGallery);
byId("more").addEventListener("click", addCards);
new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) addCards();
}, { rootMargin: "600px" }).observe(byId("more"));
byId("cards").addEventListener("keydown", (event) => {
  const cards = [...byId("cards").querySelectorAll(".card")];
  const index = cards.indexOf(event.target.closest(".card"));
  const columns = getComputedStyle(byId("cards")).gridTemplateColumns.split(" ").length;
  const target = {
    ArrowLeft: index - 1, ArrowRight: index + 1,
    ArrowUp: index - columns, ArrowDown: index + columns,
    Home: 0, End: matching.length - 1,
  }[event.key];
  if (target === undefined || target < 0 || target >= matching.length) return;
  event.preventDefault();
  focusCard(target);
});
byId("viewer").addEventListener("close", () => focusCard(currentIndex));

updateGallery();
