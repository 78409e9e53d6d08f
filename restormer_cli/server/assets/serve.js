// --- the page of the server: photos live in this page, and results only here ---

const page = JSON.parse(byId("data").textContent);
const POLL = 400;  // milliseconds between questions for the progress
const photos = [];
let token = "";
let running = false;

/** Ask the server; `Problem` is thrown for every answer that is not a success. */
class Problem extends Error {
  constructor(answer, content) {
    super(content.detail);
    this.status = answer.status;
    this.hint = content.hint;
    this.seconds = Number(answer.headers.get("Retry-After") ?? 0);
  }
}
async function request(path, query = {}, body = undefined, signal = undefined) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body) headers["Content-Type"] = "application/octet-stream";
  const address = `${path}?${new URLSearchParams(query)}`;
  const method = body ? "POST" : "GET";
  const answer = await fetch(path.startsWith("/v1/progress") ? path : address, { method, headers, body, signal });
  if (!answer.ok) {
    throw new Problem(answer, await answer.json().catch(() => ({ detail: answer.statusText, hint: "" })));
  }
  return answer;
}
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Ask again while all places of the queue are taken. */
async function patiently(photo, ask) {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 429) throw error;
      update(photo, { state: "waiting", text: "Waiting for a place in the queue" });
      await pause(1000 * Math.min(error.seconds, 10));
      update(photo, { state: "restoring", text: "Sending", share: null });
    }
  }
}

// --- settings ---

byId("about").textContent = [
  page.local ? "Photos stay on this machine." : "Photos go to this server and nowhere else.",
  page.keep ? `Results are also written to ${page.keep}.` : "Nothing is kept after this page is closed.",
].join(" ");
byId("tasks").append(...page.tasks.map(({ name, title }, index) => {
  const attributes = { type: "radio", name: "task", value: name, ...(index ? {} : { checked: "" }) };
  return create("label", {}, create("input", attributes), title.replace(" removed", ""));
}));
byId("format").append(create("option", { value: "keep" }, "as the photo"),
  ...page.formats.map((name) => create("option", { value: name }, name.toUpperCase())));
for (const name of ["strength", "keep-detail"]) {
  byId(name).addEventListener("input", () => {
    byId(`${name}-value`).textContent = `${byId(name).value} %`;
  });
}
const chosenTask = () => document.querySelector("[name=task]:checked").value;
const showDetail = () => { byId("kept").hidden = chosenTask() !== "denoise"; };
byId("tasks").addEventListener("change", showDetail);
showDetail();

/** Return the parameters that are chosen now; a photo keeps those of its start. */
function settings() {
  return {
    task: chosenTask(),
    format: byId("format").value,
    strength: byId("strength").value / 100,
    ...(byId("kept").hidden ? {} : { keep_detail: byId("keep-detail").value / 100 }),
  };
}

// --- cards ---

function addFiles(files) {
  for (const file of files) {
    const photo = { file, id: crypto.getRandomValues(new Uint32Array(4)).join("-"), urls: [] };
    const picture = create("span", { class: "picture" });
    const text = create("span", { class: "text" });
    const button = create("button", { class: "card", type: "button" }, picture, text);
    const actions = create("span", { class: "actions" });
    button.addEventListener("click", () => show(photo));
    const thumbnail = create("img", { src: URL.createObjectURL(file), alt: "", decoding: "async" });
    photo.urls.push(thumbnail.src);
    thumbnail.addEventListener("load", () => picture.append(thumbnail), { once: true });
    Object.assign(photo, { picture, lines: text, button, actions, item: create("li", {}, button, actions) });
    photos.push(photo);
    byId("cards").append(photo.item);
    enqueue(photo);
  }
}

function enqueue(photo) {
  photo.settings = settings();
  update(photo, { state: "waiting", text: "Waiting", hint: "", share: null });
  run();
}

/** Change a photo and its card. */
function update(photo, changes) {
  Object.assign(photo, changes);
  const lines = [create("bdi", { title: photo.file.name }, photo.file.name),
    create("small", photo.state === "failed" ? { class: "failed" } : {}, photo.text)];
  if (photo.hint) lines.push(create("small", {}, photo.hint));
  for (const warning of photo.result?.warnings ?? []) lines.push(create("small", { class: "warned" }, warning));
  if (photo.state === "restoring") {
    const value = photo.share === null ? {} : { value: photo.share };
    lines.push(create("progress", { max: 1, "aria-label": photo.file.name, ...value }));
  }
  photo.lines.replaceChildren(...lines);
  photo.item.dataset.state = photo.state;
  setEnabled(photo.button, photo.state === "done");
  updateActions(photo);
  updateCount();
}

/** Replace the buttons of a card if they differ, which keeps the keyboard focus. */
function updateActions(photo) {
  const names = { done: ["Download", "Remove"], failed: ["Try again", "Remove"] }[photo.state] ?? ["Remove"];
  if (photo.names?.join() === names.join()) return;
  photo.names = names;
  const had = photo.actions.contains(document.activeElement);
  photo.actions.replaceChildren(...names.map((name) => {
    const button = create("button", { type: "button", "aria-label": `${name}: ${photo.file.name}` }, name);
    button.addEventListener("click", () => ACTIONS[name](photo));
    return button;
  }));
  if (had) photo.actions.lastElementChild.focus();
}

const ACTIONS = {
  Download: (photo) => download(photo),
  "Try again": enqueue,
  Remove: (photo) => {
    const next = photo.item.nextElementSibling ?? photo.item.previousElementSibling;
    remove(photo);
    (next?.querySelector(".actions button:last-child") ?? byId("files")).focus();
  },
};

function updateCount() {
  const done = photos.filter((photo) => photo.state === "done").length;
  byId("photos").hidden = !photos.length;
  byId("count").textContent = `${done} of ${photos.length} restored`;
  setEnabled(byId("download-all"), done > 0);
}

function remove(photo) {
  photo.abort?.abort();
  photos.splice(photos.indexOf(photo), 1);
  photo.item.remove();
  photo.urls.forEach((url) => URL.revokeObjectURL(url));
  updateCount();
}

// --- restoring: one photo after the other, the next one only when this one is here ---

async function run() {
  if (running || (page.needs_token && !token)) return;
  running = true;
  for (let photo; (photo = photos.find(({ state }) => state === "waiting"));) {
    try {
      await restore(photo);
    } catch (error) {
      if (!photos.includes(photo)) continue;  // it was removed
      const offline = error instanceof TypeError;
      const refused = error.status === 401;
      update(photo, {
        state: "failed",
        text: offline ? "The server does not answer." : error.message.replace(`${photo.file.name}: `, ""),
        hint: offline ? "Start it again, then try again." : refused ? "Enter it above." : error.hint ?? "",
      });
      say(`${photo.file.name}: failed, ${photo.text}`);
      if (refused) showLogin(error.message);
    }
  }
  running = false;
}

async function restore(photo) {
  photo.abort = new AbortController();
  const { file, id, abort: { signal } } = photo;
  if (file.size > page.max_bytes) throw Object.assign(new Error("The file is too large for this server."), { hint: "" });
  update(photo, { state: "restoring", text: "Sending", share: null, result: null });
  const query = { ...photo.settings, name: file.name, id };
  const answering = patiently(photo, () => request("/v1/restore", query, file, signal));
  const watching = watch(photo, answering);
  const answer = await answering;
  const blob = await answer.blob();
  await watching;
  const result = JSON.parse(answer.headers.get("Restormer-Result"));
  const name = decodeURIComponent(answer.headers.get("Content-Disposition").split("''")[1]);
  update(photo, { text: "Drawing", share: 1 });
  photo.urls.forEach((url) => URL.revokeObjectURL(url));
  photo.urls = [];
  const [before, after] = await pictureUrls(photo, [[file, file.name], [blob, name]]);
  photo.picture.replaceChildren(create("img", { src: after, alt: "", decoding: "async" }));
  const text = `${result.width} × ${result.height}, ${result.seconds.toFixed(1)} s`;
  update(photo, { state: "done", blob, name, result, before, after, text });
  say(`${file.name}: restored`);
}

/** Show the progress of a photo until its answer is here. */
async function watch(photo, answering) {
  let pending = true;
  answering.catch(() => 0).finally(() => { pending = false; });
  while (pending) {
    await pause(POLL);
    const answer = pending && await request(`/v1/progress/${photo.id}`).catch(() => null);
    if (!answer || !pending || photo.state === "waiting") continue;
    const { state, ahead, share } = await answer.json();
    if (!pending) return;
    if (state === "restoring") update(photo, { text: `Restoring, ${Math.round(share * 100)} %`, share });
    else if (state === "waiting") update(photo, { text: `${ahead} ahead in the queue` });
  }
}

/** Return addresses of two pictures: the files, or previews of both if the browser cannot show one. */
async function pictureUrls(photo, files) {
  const url = (blob) => {
    photo.urls.push(URL.createObjectURL(blob));
    return photo.urls.at(-1);
  };
  const urls = files.map(([blob]) => url(blob));
  try {
    for (const address of urls) await Object.assign(new Image(), { src: address }).decode();
    return urls;
  } catch {
    const previews = [];
    for (const [blob, name] of files) {
      const ask = () => request("/v1/preview", { name }, blob, photo.abort.signal);
      previews.push(url(await (await patiently(photo, ask)).blob()));
    }
    return previews;
  }
}

function show(photo) {
  const done = photos.filter(({ state }) => state === "done");
  if (!done.includes(photo)) return;
  openViewer(done.map((each) => ({
    name: each.file.name,
    facts: [each.text, `weights ${each.result.weights.name}`],
    warnings: each.result.warnings,
    notes: each.result.notes,
    links: {},
    before: each.before,
    after: each.after,
  })), done.indexOf(photo));
}
byId("viewer").addEventListener("close", () => {
  photos.filter(({ state }) => state === "done")[currentIndex]?.button.focus();
});

function say(text) {
  byId("status").textContent = text;
}

// --- downloads ---

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  create("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function download(photo) {
  save(photo.blob, photo.name);
  photo.saved = true;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** Return little-endian bytes of [size, value] pairs. */
function pack(...fields) {
  const bytes = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) bytes.setUint16(at, value, true);
    else bytes.setUint32(at, value, true);
    at += size;
  }
  return bytes.buffer;
}

/** Return a zip archive of files that are compressed already (PKWARE APPNOTE 6.3, stored). */
async function zip(files) {
  const parts = [], directory = [];
  let offset = 0;
  for (const { name, blob } of files) {
    const path = new TextEncoder().encode(name);
    const crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    // Version 2.0, flag 11 (names are UTF-8), stored, 1980-01-01 00:00.
    const common = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 33], [4, crc], [4, blob.size], [4, blob.size],
      [2, path.length], [2, 0]];
    parts.push(pack([4, 0x04034b50], ...common), path, blob);
    directory.push(pack([4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]), path);
    offset += 30 + path.length + blob.size;
  }
  const size = directory.reduce((sum, part) => sum + part.byteLength, 0);
  const end = pack([4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, offset], [2, 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

const ZIP_LIMIT = 2 ** 32 - 2 ** 20;  // without the 64-bit extension
const ZIP_FILES = 65_535;

/** Give each file a name of its own: a.png, a-2.png. */
function uniqueNames(files) {
  const used = new Set();
  return files.map(({ name, blob }) => {
    const dot = name.lastIndexOf(".");
    let unique = name;
    for (let n = 2; used.has(unique.toLowerCase()); n++) unique = `${name.slice(0, dot)}-${n}${name.slice(dot)}`;
    used.add(unique.toLowerCase());
    return { name: unique, blob };
  });
}

byId("download-all").addEventListener("click", async () => {
  const done = photos.filter(({ state }) => state === "done");
  if (!done.length) return;
  const total = done.reduce((sum, { blob }) => sum + blob.size + 1000, 0);
  if (total > ZIP_LIMIT || done.length > ZIP_FILES) {
    say("Too much for one archive.");
    byId("count").textContent = "Too much for one archive: download the photos one by one.";
    return;
  }
  save(await zip(uniqueNames(done)), "restored.zip");
  for (const photo of done) photo.saved = true;
  say(`${done.length} photos in restored.zip`);
});
byId("remove-all").addEventListener("click", () => {
  for (const photo of [...photos]) remove(photo);
  byId("files").focus();
});

// --- input: choosing, dropping and pasting ---

byId("files").addEventListener("change", () => {
  addFiles(byId("files").files);
  byId("files").value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && !byId("viewer").open) addFiles(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => addFiles(event.clipboardData.files));
window.addEventListener("beforeunload", (event) => {
  if (photos.some(({ state, saved }) => state === "restoring" || (state === "done" && !saved && !page.keep))) {
    event.preventDefault();
  }
});

// --- token: in the address after "#", which browsers do not send, or typed in ---

function showLogin(message = "") {
  token = "";
  byId("login").hidden = false;
  byId("login-error").textContent = message;
  byId("token").focus();
}
byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  byId("login").hidden = true;
  for (const photo of photos) if (photo.state === "failed") enqueue(photo);
  run();
});
// A token that was typed into the address bar may contain a bare "%".
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
if (page.needs_token) {
  token = decoded(location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
  if (!token) showLogin();
}
