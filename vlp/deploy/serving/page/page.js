// The page: every request goes to the server that sent it. Texts of users and models are set as text, never as HTML.
const $ = (id) => document.getElementById(id);
const COLORS = ["#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#0f9fb5", "#b8860b", "#c2185b", "#5c7f00", "#7b4b2a"];
let key = sessionStorage.getItem("vlp-key");
let photo = null; // the file that is shown
let model = null;

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

async function ask(path, options = {}) {
  const headers = { ...(options.headers ?? {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  if (!answer.ok) {
    const content = await answer.json().catch(() => null);
    throw new Error(content?.error?.message ?? `the server answered ${answer.status}`);
  }
  return answer;
}

const seconds = (start) => `${((performance.now() - start) / 1000).toFixed(2)} s`;

async function busy(form, work) {
  const button = form.querySelector("button");
  button.disabled = true;
  say("Working …");
  const start = performance.now();
  try {
    say(`${await work()} (${seconds(start)})`);
  } catch (error) {
    say(error.message, true);
  } finally {
    button.disabled = false;
  }
}

// ---- what is shown of an answer

function bars(list, rows) {
  list.replaceChildren(...rows.map(({ name, share, color }) => {
    const item = document.createElement("li");
    const bar = document.createElement("progress");
    bar.value = share;
    bar.max = 1;
    bar.setAttribute("aria-hidden", "true");
    const label = document.createElement("span");
    if (color) {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = color;
      label.append(swatch);
    }
    label.append(name);
    const figure = document.createElement("span");
    figure.textContent = `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
    item.append(bar, label, figure);
    return item;
  }));
}

function canvas() {
  const area = $("overlay");
  area.width = $("preview").naturalWidth;
  area.height = $("preview").naturalHeight;
  return area.getContext("2d");
}

function mark(legend) {
  $("clear").hidden = false;
  $("legend").hidden = !legend;
  $("legend").textContent = legend;
}

function clearMarks() {
  canvas();
  $("clear").hidden = $("legend").hidden = true;
}

function drawBox(pen, box, color, text) {
  const unit = Math.max(pen.canvas.width, pen.canvas.height) / 400;
  const [left, top, right, bottom] = box;
  pen.lineWidth = 2 * unit;
  pen.strokeStyle = color;
  pen.strokeRect(left, top, right - left, bottom - top);
  if (!text) return;
  pen.font = `600 ${Math.ceil(11 * unit)}px system-ui`;
  const width = pen.measureText(text).width + 6 * unit;
  const y = Math.max(top - 15 * unit, 0);
  pen.fillStyle = color;
  pen.fillRect(left, y, width, 15 * unit);
  pen.fillStyle = "#fff";
  pen.fillText(text, left + 3 * unit, y + 11.5 * unit);
}

const fromUri = (uri) => new Promise((done, failed) => {
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = () => failed(new Error("the server's picture cannot be shown"));
  image.src = uri;
});

async function grey(uri) {
  const image = await fromUri(uri);
  const area = new OffscreenCanvas(image.width, image.height);
  const pen = area.getContext("2d");
  pen.drawImage(image, 0, 0);
  return { area, pen, pixels: pen.getImageData(0, 0, image.width, image.height) };
}

function rgb(color) {
  return [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
}

function heatPicture(heat) {
  const values = heat.flat();
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const area = new OffscreenCanvas(heat[0].length, heat.length);
  const pen = area.getContext("2d");
  const pixels = pen.createImageData(area.width, area.height);
  values.forEach((value, index) => {
    const share = most > least ? (value - least) / (most - least) : 0;
    pixels.data.set([255, Math.round(200 * (1 - share)), 0, Math.round(200 * share)], 4 * index);
  });
  pen.putImageData(pixels, 0, 0);
  return area;
}

// ---- the verbs

const lines = (id) => $(id).value.split("\n").map((line) => line.trim()).filter(Boolean);

async function askPhoto(verb, fields = {}) {
  const form = new FormData();
  form.append("image", photo, "photo");
  for (const [name, value] of Object.entries(fields)) {
    for (const single of [value].flat()) form.append(name, single);
  }
  return (await ask(`/v1/${verb}`, { method: "POST", body: form })).json();
}

const verbs = {
  async classify(form) {
    const labels = lines("labels");
    const found = (await askPhoto("classify", labels.length ? { labels } : {})).labels;
    bars(form.querySelector("ol"), found.slice(0, 20).map((item) => ({ name: item.label, share: item.score })));
    return `Best label: ${found[0].label}`;
  },
  async caption(form) {
    const { caption } = await askPhoto("caption");
    form.querySelector(".answer").textContent = caption;
    return "The caption is written";
  },
  async answer(form) {
    const { answers } = await askPhoto("answer", { question: $("question").value });
    bars(form.querySelector("ol"), answers.slice(0, 5).map((item) => ({ name: item.answer, share: item.score })));
    return answers.length ? `Answer: ${answers[0].answer}` : "No answer";
  },
  async match(form) {
    const { matches } = await askPhoto("match", { texts: [$("sentence").value] });
    bars(form.querySelector("ol"), matches.map((item) => ({ name: item.text, share: item.score })));
    return `Fits with ${(100 * matches[0].score).toFixed(0)} %`;
  },
  async detect(form) {
    const labels = model.open_vocabulary.detect ? lines("things") : [];
    const fields = { threshold: $("threshold").value, ...(labels.length ? { labels } : {}) };
    const { objects } = await askPhoto("detect", fields);
    const kinds = [...new Set(objects.map((thing) => thing.label))];
    const color = (thing) => COLORS[kinds.indexOf(thing.label) % COLORS.length];
    const pen = canvas();
    for (const thing of objects) drawBox(pen, thing.box, color(thing), `${thing.label} ${(100 * thing.score).toFixed(0)} %`);
    bars(form.querySelector("ol"), objects.map((thing) => ({ name: thing.label, share: thing.score, color: color(thing) })));
    mark("");
    return `${objects.length} ${objects.length === 1 ? "thing" : "things"} found`;
  },
  async segment(form) {
    const labels = model.open_vocabulary.segment ? lines("regions") : [];
    const found = await askPhoto("segment", labels.length ? { labels } : {});
    const { area, pen, pixels } = await grey(found.classes);
    const counts = new Map();
    for (let at = 0; at < pixels.data.length; at += 4) {
      const index = pixels.data[at];
      counts.set(index, (counts.get(index) ?? 0) + 1);
      const shown = index < found.names.length ? [...rgb(COLORS[index % COLORS.length]), 140] : [0, 0, 0, 0];
      pixels.data.set(shown, at);
    }
    pen.putImageData(pixels, 0, 0);
    const overlay = canvas();
    overlay.drawImage(area, 0, 0, overlay.canvas.width, overlay.canvas.height);
    const rows = [...counts].filter(([index]) => index < found.names.length).sort((a, b) => b[1] - a[1]);
    bars(form.querySelector("ol"), rows.map(([index, count]) => (
      { name: found.names[index], share: count / (area.width * area.height), color: COLORS[index % COLORS.length] })));
    mark("");
    return `${rows.length} ${rows.length === 1 ? "region" : "regions"}`;
  },
  async ground(form) {
    const { box, score, heat } = await askPhoto("heat", { phrase: $("phrase").value });
    const pen = canvas();
    if (heat) pen.drawImage(heatPicture(heat), 0, 0, pen.canvas.width, pen.canvas.height);
    if (box) drawBox(pen, box, COLORS[2], "");
    mark(heat ? "Red: where the phrase fits best; transparent: where it fits least." : "");
    form.querySelector(".answer").textContent = score === null ? "" : `Fits with ${(100 * score).toFixed(0)} %`;
    return "Shown on the photo";
  },
};

function usePhoto(file) {
  if (!file) return;
  if (!["image/jpeg", "image/png", "image/webp"].includes(file.type)) {
    say(`${file.name || "This"} is no JPEG, PNG or WEBP`, true);
    return;
  }
  if (file.size > model.limits.body_bytes) {
    say(`${file.name} has more than ${Math.floor(model.limits.body_bytes / 2 ** 20)} MB: make it smaller`, true);
    return;
  }
  photo = file;
  URL.revokeObjectURL($("preview").src);
  $("preview").onload = () => {
    clearMarks();
    say(`${file.name || "The photo"} is ready: choose what to ask`);
  };
  $("preview").onerror = () => say(`${file.name} is damaged: this browser cannot show it`, true);
  $("preview").src = URL.createObjectURL(file);
  $("preview").alt = `Your photo ${file.name}`;
  $("stage").hidden = false;
  $("drop-text").hidden = true;
  $("drop").classList.add("full");
  for (const shown of document.querySelectorAll("#cards .bars, #cards .answer")) shown.replaceChildren();
}

// ---- search

async function thumbnail(image, address) {
  image.src = URL.createObjectURL(await (await ask(address)).blob()); // an <img> could not send the key
}

async function showPhotos(found) {
  for (const image of document.querySelectorAll("#photos img")) URL.revokeObjectURL(image.src);
  $("photos").replaceChildren(...found.map((item) => {
    const name = item.path.split(/[\\/]/).pop();
    const entry = document.createElement("li");
    const figure = document.createElement("figure");
    const image = document.createElement("img");
    image.alt = name;
    const caption = document.createElement("figcaption");
    caption.textContent = `${name} · ${item.score.toFixed(3)}${item.taken ? ` · ${item.taken.slice(0, 10)}` : ""}`;
    caption.title = item.path;
    const more = document.createElement("button");
    more.type = "button";
    more.textContent = "More like this";
    more.setAttribute("aria-label", `More like ${name}`);
    more.onclick = () => search(`like=${item.id}`, `like ${name}`);
    figure.append(image, caption, more);
    entry.append(figure);
    thumbnail(image, item.thumbnail).catch(() => { image.alt = `${name} (cannot be shown)`; });
    return entry;
  }));
}

function search(query, words) {
  return busy($("search-form"), async () => {
    const { photos } = await (await ask(`/v1/search?k=40&${query}`)).json();
    await showPhotos(photos);
    return photos.length ? `${photos.length} photos, best first: ${words}` : "No photos";
  });
}

// ---- tabs: arrow keys move, as screen readers expect

function choose(tab, focus = true) {
  for (const other of document.querySelectorAll("[role=tab]")) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
  say("");
}

function connectTabs() {
  const tabs = () => [...document.querySelectorAll("[role=tab]:not([hidden])")];
  for (const tab of document.querySelectorAll("[role=tab]")) tab.onclick = () => choose(tab);
  $("tabs").onkeydown = (event) => {
    const all = tabs();
    const at = all.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    choose(all[(next + all.length) % all.length]);
  };
}

function connectPhoto() {
  $("file").onchange = () => usePhoto($("file").files[0]);
  const drop = $("drop");
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => event.preventDefault());
  drop.ondragover = () => drop.classList.add("over");
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = (event) => {
    drop.classList.remove("over");
    usePhoto(event.dataTransfer.files[0]);
  };
  document.addEventListener("paste", (event) => usePhoto(event.clipboardData.files[0]));
  $("clear").onclick = clearMarks;
  $("threshold").oninput = () => { $("threshold-value").textContent = Number($("threshold").value).toFixed(2); };
  for (const form of document.querySelectorAll("[data-verb]")) {
    form.onsubmit = (event) => {
      event.preventDefault();
      if (!photo) {
        say("Choose a photo first", true);
        $("file").focus();
        return;
      }
      busy(form, () => verbs[form.dataset.verb](form));
    };
  }
}

function showModel() {
  $("model").textContent = `${model.id} · ${model.family} · ${model.precision}${model.photos === null ? "" : ` · ${model.photos} photos`}`;
  document.title = `${model.id} – vlp`;
  for (const form of document.querySelectorAll("[data-verb]")) form.hidden = !model.verbs.includes(form.dataset.verb);
  if (model.classes) $("labels").value = "";
  if (model.classes) $("labels").placeholder = `empty: the model's own ${model.classes.length} classes`;
  $("detect-words").hidden = !model.open_vocabulary.detect;
  $("segment-words").hidden = !model.open_vocabulary.segment;
  const searchable = model.photos !== null;
  const about = [...document.querySelectorAll("[data-verb]")].some((form) => !form.hidden);
  $("tab-search").hidden = !searchable;
  $("tab-photo").hidden = !about;
  $("tabs").hidden = false;
  if (!about && !searchable) say("This model has nothing to show here; the interface lists what it can do");
  else choose(searchable ? $("tab-search") : $("tab-photo"), false);
}

async function start() {
  try {
    model = (await (await ask("/v1/models")).json()).data[0];
  } catch (error) {
    $("model").textContent = "";
    say(error.message, true);
    return;
  }
  $("key-form").hidden = true;
  showModel();
}

$("key-form").onsubmit = (event) => {
  event.preventDefault();
  key = $("key").value;
  sessionStorage.setItem("vlp-key", key);
  say("");
  start();
};
$("search-form").onsubmit = (event) => {
  event.preventDefault();
  search(`q=${encodeURIComponent($("words").value)}`, $("words").value);
};
connectTabs();
connectPhoto();
start();
