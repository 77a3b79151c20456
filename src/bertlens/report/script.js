// Everything the page does. The text of reviewers reaches the document as text nodes only; there is no innerHTML here,
// and the page's policy (trusted-types 'none') would refuse it. Styles are set through CSSOM, which the policy allows.
//
// One object, `state`, says what is on screen; the address holds it; `go(changes)` is the only way to change it.
// The page knows methods by name, sentence, sign and rows; a row holds one number per word piece. What stands beside the
// text of a review is in check.js.
"use strict";
(() => {

// ----------------------------------------------------------------------------------------------------- small functions

const $ = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function el(tag, given = "", ...children) { // given: a class, or attributes
  const element = document.createElement(tag);
  const attributes = typeof given === "object" ? given : given ? { class: given } : {};
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children); // strings become text nodes
  return element;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const largest = (numbers) => numbers.reduce((most, number) => Math.max(most, Math.abs(number)), 0);
const signed = (number) => `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(3)}`;

// --------------------------------------------------------------------------------------------------- text from reviews

const LINE_BREAK = /<br\s*\/?>/gi;
// line breaks, and characters that show nothing or reorder what is around them, except joiners
const SPECIAL = /<br\s*\/?>|\r\n?|(?![\t\n\r\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/giu;
const codePoint = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

// A text on one line, for titles and lists.
function plain(text) {
  return text.replace(SPECIAL, (found) => (/^[<\r]/.test(found) ? " " : `⟨${codePoint(found)}⟩`));
}

function excerpt(text, start, length) {
  return plain(text.slice(start, start + length).replace(/^[\udc00-\udfff]|[\ud800-\udbff]$/g, ""));
}

// As written, with line breaks, and with hidden characters spelled out.
function appendText(parent, text) {
  let done = 0;
  for (const { 0: found, index } of text.matchAll(SPECIAL)) {
    parent.append(text.slice(done, index));
    done = index + found.length;
    if (found[0] === "<") parent.append(el("br"));
    else if (found[0] === "\r") parent.append("\n");
    else parent.append(el("span", { class: "hidden-character", title: report.hidden[found] ?? "" }, codePoint(found)));
  }
  parent.append(text.slice(done));
}

// ------------------------------------------------------------------------------------------ the reviews and their rows

const [report, reviews] = ["report-facts", "report-reviews"].map((id) => {
  const block = $(id);
  block.remove(); // frees megabytes
  return JSON.parse(block.textContent);
});
const placeOf = new Map();
reviews.forEach((review, place) => {
  review.confidence = Math.max(...review.probabilities);
  review.predicted = review.probabilities.indexOf(review.confidence);
  review.right = review.label === null ? null : review.label === review.predicted;
  if (!placeOf.has(review.index)) placeOf.set(review.index, place);
});

const methods = report.methods;
methods.forEach((method, at) => { // first: the number of its first row; scale: what is painted in full, null: each text's
  method.first = at ? methods[at - 1].first + methods[at - 1].rows.length : 0;
  method.scale = report.scales[at];
});

// A review with its numbers unpacked; only the one on screen is.
class OpenReview {
  constructor(review) {
    this.review = review;
    this.length = review.tokens.length;
    const bytes = Uint8Array.from(atob(review.values), (character) => character.charCodeAt(0));
    this.values = new Float32Array(bytes.buffer); // little-endian, like every machine that runs a browser
    this.starts = [];
    this.ends = [];
    for (let piece = 0, end = 0; piece < this.length; piece += 1) {
      this.starts.push(end + review.offsets[2 * piece]);
      end = this.starts[piece] + review.offsets[2 * piece + 1];
      this.ends.push(end);
    }
    this.words = this.units(review.words);
    this.pieces = this.units(null);
  }

  // What is coloured as one: pieces [from, to), characters [start, end) of the text. sizes: pieces per unit; null: one.
  units(sizes) {
    const units = [];
    for (let piece = 0, next = 0; piece < this.length;) {
      if ("cs".includes(this.review.kinds[piece])) {
        piece += 1;
        continue;
      }
      const to = piece + (sizes ? sizes[next++] : 1);
      const before = units.at(-1);
      if (before && this.starts[piece] < before.end) { // one character cut into several pieces, as in Hangul
        before.to = to;
        before.end = Math.max(before.end, this.ends[to - 1]);
      } else units.push({ from: piece, to, start: this.starts[piece], end: this.ends[to - 1] });
      piece = to;
    }
    return units;
  }

  // The numbers of a method's row, one per piece.
  row(method, row) {
    const start = (method.first + row) * this.length;
    return this.values.subarray(start, start + this.length);
  }

  share(row, kind) {
    return sum([...row].filter((_, piece) => this.review.kinds[piece] === kind));
  }
}

const unitWeights = (units, row) => units.map(({ from, to }) => sum(row.slice(from, to)));

// ---------------------------------------------------------------------------------- what is on screen, and its address

const numbers = (length) => Array.from({ length }, (_, index) => String(index));
const classes = ["any", ...numbers(report.labels.length)];
const ALLOWED = {
  view: ["summary", "reading", "classic"],
  method: numbers(methods.length),
  row: numbers(Math.max(0, ...methods.map((method) => method.rows.length))),
  unit: ["words", "pieces"],
  without: [...numbers(21), ...numbers(20).map((place) => `w${place}`)], // so many leading words, or this one alone
  result: ["all", "right", "wrong"],
  label: classes,
  predicted: classes,
  sort: ["order", "surest", "unsurest"],
};
const NO_FILTER = { result: "all", label: "any", predicted: "any", sort: "order", q: "" };
const DEFAULTS = { view: "summary", review: null, method: "0", row: "0", unit: "words", without: "0", ...NO_FILTER };
if (reviews.length === 1) Object.assign(DEFAULTS, { view: "reading", review: 0 }); // it is what the page is about
let state = {};
let shown = []; // places of the reviews that the filters leave, in the list's order

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const read = { ...DEFAULTS, q: given.get("q") ?? "" };
  for (const [key, allowed] of Object.entries(ALLOWED)) {
    if (allowed.includes(given.get(key))) read[key] = given.get(key);
  }
  read.review = placeOf.get(Number(given.get("review") || NaN)) ?? DEFAULTS.review;
  if (read.review === null) read.view = "summary";
  return read;
}

function writeAddress(push) {
  const given = new URLSearchParams();
  for (const key of Object.keys(DEFAULTS)) if (state[key] !== DEFAULTS[key]) given.set(key, state[key]);
  if (state.review !== null) given.set("review", reviews[state.review].index);
  const address = `#${given}`;
  if (address === (location.hash || "#")) return;
  try {
    history[push ? "pushState" : "replaceState"](null, "", address);
  } catch { /* some browsers limit how often; the next change writes it */ }
}

function go(changes) {
  const push = changes.view !== undefined && changes.view !== state.view; // "back" leads to the last view
  show({ ...state, ...changes });
  writeAddress(push);
}

function show(next) {
  const before = state;
  state = next;
  if (Object.keys(NO_FILTER).some((key) => state[key] !== before[key])) showList();
  showSelected();
  hideTip();
  showView();
}

function openReview(place, view = state.view === "classic" ? "classic" : "reading") {
  if (place === undefined) return;
  go({ review: place, view, ...(place === state.review ? {} : { without: "0" }) });
  const { index, predicted, right } = reviews[place];
  const result = right === null ? "" : right ? ", right" : ", wrong";
  $("live").textContent = `Review ${index}: ${report.labels[predicted]}${result}`;
}

function step(by) {
  const at = shown.indexOf(state.review);
  const to = at >= 0 ? at + by : by > 0 ? by - 1 : shown.length + by;
  openReview(shown[Math.min(Math.max(to, 0), shown.length - 1)]);
}

// ------------------------------------------------------------------------------------------------- the list of reviews

function showList() {
  const query = state.q.toLowerCase();
  const keeps = (review) => (state.result === "all" || review.right === (state.result === "right"))
    && (state.label === "any" || review.label === Number(state.label))
    && (state.predicted === "any" || review.predicted === Number(state.predicted))
    && (!query || (review.lower ??= review.text.toLowerCase()).includes(query));
  shown = [...reviews.keys()].filter((place) => keeps(reviews[place]));
  const sign = { order: 0, surest: -1, unsurest: 1 }[state.sort];
  if (sign) shown.sort((a, b) => sign * (reviews[a].confidence - reviews[b].confidence) || a - b);
  for (const input of all("#filters input[type=radio]")) input.checked = input.value === state.result;
  for (const select of all("#filters select")) select.value = state[select.name];
  if ($("search").value !== state.q) $("search").value = state.q;
  $("count").textContent = shown.length === reviews.length ? `${shown.length} review${shown.length === 1 ? "" : "s"}`
    : shown.length ? `${shown.length} of ${reviews.length} reviews` : "No review matches.";
  $("list").replaceChildren(...shown.map((place) => listRow(place, query)));
}

function listRow(place, query) {
  const { index, text, lower, predicted, confidence, right, label } = reviews[place];
  const found = query ? lower.indexOf(query) : 0;
  const attributes = {
    class: "row", id: `row-${place}`, "data-place": place, role: "option", "aria-selected": false,
    title: `predicted ${report.labels[predicted]}; label ${label === null ? "unknown" : report.labels[label]}`,
  };
  return el("div", attributes,
    el("div", "row-head",
      el("span", "number", `${index}`),
      el("bdi", "name", report.labels[predicted]),
      el("span", right === false ? "wrong" : "right", right === null ? "" : right ? "✓ right" : "✗ wrong"),
      el("span", "number confidence", percent(confidence))),
    el("bdi", "excerpt", (found > 20 ? "… " : "") + excerpt(text, found > 20 ? found - 20 : 0, 160)));
}

function showSelected() {
  for (const row of all(".row[aria-selected=true]")) row.setAttribute("aria-selected", false);
  const row = $(`row-${state.review}`);
  row?.setAttribute("aria-selected", true);
  row?.scrollIntoView({ block: "nearest" });
  if (row) $("list").setAttribute("aria-activedescendant", row.id);
  else $("list").removeAttribute("aria-activedescendant");
}

function showPanel(open) {
  document.body.classList.toggle("panel-open", open);
  $("open-list").setAttribute("aria-expanded", open);
  for (const element of [$("main"), ...all("header.top, footer")]) element.inert = open;
  if (open) showSelected();
  $(open ? "search" : "open-list").focus();
}

// ------------------------------------------------------------------------------------------- one review: what is shown

let open = null; // the review on screen
let drawn = {}; // what the views last drew, so that a change of row only recolours
const blocks = new WeakMap(); // a text on screen → its units' elements, names and weights

function showView() {
  for (const button of all("[data-view]")) {
    if (button.dataset.view === state.view) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  $("summary").hidden = state.view !== "summary";
  $("review").hidden = state.view === "summary";
  document.title = state.view === "summary" ? TITLE : `Review ${reviews[state.review].index} · ${TITLE}`;
  if (state.view === "summary") return;
  if (open?.review !== reviews[state.review]) {
    open = new OpenReview(reviews[state.review]);
    drawn = {};
    showReviewHead();
    scrollTo(0, 0);
  }
  const at = shown.indexOf(state.review);
  $("previous").disabled = at === 0;
  $("next").disabled = at >= 0 && at === shown.length - 1;
  const reading = state.view === "reading";
  $("reading").hidden = $("units").hidden = !reading;
  $("classic").hidden = reading;
  $("method").value = state.method;
  if (reading) showReading();
  else showClassic();
}

function showReviewHead() {
  const { index, predicted, confidence, right, label, probabilities } = open.review;
  $("review-title").textContent = `Review ${index}`;
  $("prediction").replaceChildren(
    ...(right === null ? [] : [el("span", right ? "right" : "wrong", right ? "✓ right" : "✗ wrong"), " "]),
    "predicted ", el("bdi", "name", report.labels[predicted]), `, ${percent(confidence)} sure; label `,
    label === null ? "unknown" : el("bdi", "name", report.labels[label]));
  pairs($("classes"), probabilities.map((probability, at) => [report.labels[at], probability])
    .sort((a, b) => b[1] - a[1]));
}

function pairs(list, rows) {
  list.replaceChildren(...rows.map(([name, share]) =>
    el("div", "", el("dt", "", el("bdi", "", name)), el("dd", "number", percent(share)))));
}

// Each unit by its weight; negative ones have another hue. most: the weight that is painted in full.
function paint(block, weights, most = largest(weights) || 1) {
  block.elements.forEach((element, n) => {
    element.style.setProperty("--a", Math.min(Math.abs(weights[n] / most), 1).toFixed(4));
    element.classList.toggle("against", weights[n] < 0);
  });
}

function showReading() {
  const method = methods[state.method];
  const rowNumber = Number(state.row) < method.rows.length ? Number(state.row) : 0;
  const units = open[state.unit];
  if (drawn.unit !== state.unit) drawText(units);
  const row = open.row(method, rowNumber);
  const block = blocks.get($("text"));
  block.setWeights(unitWeights(units, row), method);
  paint(block, block.weights, method.scale ?? undefined);
  $("reading-title").textContent = method.rows.length > 1 ? `${method.name}: ${method.rows[rowNumber]}` : method.name;
  showRows(method, rowNumber, units);
  beside.show({ open, method, rowNumber, block, units, without: state.without });
  for (const input of all("#units input")) input.checked = input.value === state.unit;
  drawn.unit = state.unit;
}

// A text whose units can be pointed at. noun: what a unit is called.
class Block {
  constructor(root, noun, names, pieces, elements) {
    Object.assign(this, { noun, names, pieces, elements, current: -1 });
    elements.forEach((element, n) => { element.dataset.n = n; });
    blocks.set(root, this);
  }

  setWeights(weights, method) { // order: the units by weight, strongest first
    Object.assign(this, { weights, method, notes: new Map() }); // notes: what else a unit says of itself
    const strength = weights.map(Math.abs);
    this.order = [...weights.keys()].sort((a, b) => strength[b] - strength[a] || a - b);
  }

  describe(n) {
    const weight = this.weights[n];
    const { number, signed: hasSign } = this.method;
    return [hasSign ? `${number} ${signed(weight)}, ${weight < 0 ? "against" : "for"} the prediction`
      : `weight ${weight.toFixed(3)}`, `rank ${this.order.indexOf(n) + 1} of ${this.weights.length}`,
    `${this.noun} ${n + 1} of ${this.weights.length}`, ...(this.notes.get(n) ?? [])];
  }
}

function drawText(units) {
  const root = $("text");
  const { text, tokens } = open.review;
  root.replaceChildren();
  let done = 0;
  const elements = [];
  const appendGap = (end) => {
    const unseen = /\S/.test(text.slice(done, end).replace(LINE_BREAK, ""));
    appendMarked(unseen ? root.appendChild(el("span", "unseen")) : root, done, end);
  };
  // where cleaning keeps <br /> as pieces, they are shown, and then the break
  const breaks = new Set([...text.matchAll(LINE_BREAK)].map(({ 0: found, index }) => index + found.length));
  for (const { start, end } of units) {
    appendGap(start);
    elements.push(root.appendChild(el("span", "unit")));
    appendMarked(elements.at(-1), start, end);
    if (breaks.has(end)) root.append(el("br"));
    done = end;
  }
  appendGap(text.length);
  const names = units.map(({ start, end }) => excerpt(text, start, Math.min(end - start, 60)));
  const pieces = units.map(({ from, to }) => excerpt(tokens.slice(from, to).join(" "), 0, 80));
  new Block(root, state.unit === "words" ? "word" : "piece", names, pieces, elements);
}

// Characters [start, end), with those that decide the label underlined.
function appendMarked(parent, start, end) {
  const { text, spans } = open.review;
  let at = start;
  for (const [from, to] of spans) {
    if (to <= at || from >= end) continue;
    appendText(parent, text.slice(at, Math.max(at, from)));
    at = Math.max(at, from);
    appendText(parent.appendChild(el("u", "key")), text.slice(at, Math.min(to, end)));
    at = Math.min(to, end);
  }
  appendText(parent, text.slice(at, end));
}

// The method's rows as buttons, each with the text as a strip of colour.
function showRows(method, rowNumber, units) {
  const box = $("method-rows");
  box.parentElement.hidden = method.rows.length < 2;
  $("rows-title").textContent = method.name;
  const wanted = [state.method, state.unit].join();
  if (drawn.rows !== wanted) box.replaceChildren(...method.rows.map((name, at) => rowButton(method, name, at, units)));
  drawn.rows = wanted;
  [...box.children].forEach((button, at) => {
    button.setAttribute("aria-checked", at === rowNumber);
    button.tabIndex = at === rowNumber ? 0 : -1;
  });
}

function rowButton(method, name, at, units) {
  const row = open.row(method, at);
  const share = method.summed && !method.signed ? `${(100 * open.share(row, "w")).toFixed(0)} % on words` : "";
  const strip = el("span", "strip");
  const weights = unitWeights(units, row);
  const most = largest(weights) || 1;
  const letters = sum(units.map(({ start, end }) => end - start));
  let done = 0;
  strip.style.background = `linear-gradient(to right, ${units.map(({ start, end }, n) => {
    const colour = method.signed ? weights[n] < 0 ? "--against" : "--for" : "--hot";
    const from = done;
    done += (100 * (end - start)) / letters;
    return `color-mix(in srgb, var(${colour}) ${100 * Math.abs(weights[n] / most)}%, var(--soft)) ${from}% ${done}%`;
  })})`;
  return el("button", { class: "method-row", type: "button", role: "radio", "data-row": at },
    el("span", "caption", el("span", "", name), el("span", "number", share)), strip);
}

// ---------------------------------------------------------------------------------------------------- the classic view

// The notebook's picture: each row, the first one last; pieces up to [SEP]; the largest weight, [SEP]'s included, is 1.
function showClassic() {
  if (drawn.classic === state.method) return;
  drawn.classic = state.method;
  const method = methods[state.method];
  const { tokens, kinds, label, predicted } = open.review;
  const end = kinds.endsWith("s") ? tokens.length - 1 : tokens.length;
  const names = tokens.slice(0, end).map(plain);
  const pictures = method.rows.map((title, at) => {
    const elements = names.map((name) => el("span", "unit", ` ${name}`));
    const root = el("div", { class: method.signed ? "text signed" : "text", tabindex: 0, role: "group", "aria-label": title }, ...elements);
    const block = new Block(root, "piece", names, names, elements);
    block.setWeights([...open.row(method, at)], method);
    paint(block, block.weights);
    return el("section", "picture", el("h3", "", title), root);
  });
  $("classic-hue").textContent = method.signed ? "orange, or blue where it is against the prediction," : "red";
  $("classic-full").textContent = method.signed ? "orange or blue" : "red";
  const [lang, ofLabel, ofVerdict, unknown] = report.captions;
  $("pictures").replaceChildren(
    el("p", { lang }, ofLabel, el("b", "", label === null ? unknown : report.labels[label]), el("br"),
      ofVerdict, el("b", "", report.labels[predicted])),
    ...pictures.slice(1), pictures[0]);
}

// -------------------------------------------------------------------------------------------------- pointing at a word

let hiding = 0; // the timer that will hide the tip
let tipped = null; // the element it belongs to

function showTip(block, n) {
  clearTimeout(hiding);
  const [weight, ...rest] = block.describe(n);
  const pieces = block.pieces[n] === block.names[n].toLowerCase() ? "" : block.pieces[n];
  $("tip").replaceChildren(el("bdi", "", block.names[n]), ...(pieces ? [el("bdi", "pieces", pieces)] : []),
    el("strong", "number", weight), el("span", "", rest.join(" · ")));
  $("tip").hidden = false;
  tipped = block.elements[n];
  placeTip();
}

function placeTip() {
  if ($("tip").hidden) return;
  const word = tipped.getClientRects()[0] ?? tipped.getBoundingClientRect();
  const tip = $("tip").getBoundingClientRect();
  const left = Math.min(Math.max(word.left, 8), document.documentElement.clientWidth - tip.width - 8);
  const top = word.top > tip.height + 70 ? word.top - tip.height - 2 : word.bottom + 2;
  $("tip").style.left = `${Math.max(left, 8)}px`;
  $("tip").style.top = `${top}px`;
}

function hideTip() {
  clearTimeout(hiding);
  $("tip").hidden = true;
}

// By keyboard or click: the word keeps a frame until the next one gets it, and is read out.
function pointAt(block, n) {
  block.elements[block.current]?.classList.remove("current");
  block.current = n;
  block.elements[n].classList.add("current");
  block.elements[n].scrollIntoView({ block: "nearest" });
  showTip(block, n);
  $("live").textContent = `${block.names[n]}: ${block.describe(n).join(", ")}`;
}

function onTextKey(key, block) {
  const last = block.elements.length - 1;
  const next = { ArrowRight: block.current + 1, ArrowLeft: block.current - 1, Home: 0, End: last, Enter: block.current }[key];
  if (next === undefined || last < 0) return false;
  if (key === "Enter") beside.take(block, next);
  pointAt(block, Math.min(Math.max(next, 0), last));
  return true;
}

// ------------------------------------------------------------------------------------------------------------ controls

function leavePanel() {
  if (document.body.classList.contains("panel-open")) showPanel(false);
  $("main").focus();
}

// Returns whether the key did something.
function onKey({ key, target, ctrlKey, metaKey, altKey }) {
  if (ctrlKey || metaKey || altKey) return false;
  if (key === "Escape") {
    const panelOpen = document.body.classList.contains("panel-open");
    if (panelOpen) showPanel(false);
    hideTip();
    return panelOpen; // otherwise it empties the search field
  }
  const text = target.closest(".text");
  if (text) return onTextKey(key, blocks.get(text));
  const arrow = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[key];
  if (target.closest("#method-rows")) {
    const buttons = [...$("method-rows").children];
    const next = buttons[(buttons.indexOf(target) + arrow + buttons.length) % buttons.length];
    next?.focus();
    next?.click();
    return Boolean(next);
  }
  if (target.closest("#list")) {
    const by = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[key];
    if (by) step(by);
    else if (key === "Enter" && state.review !== null) leavePanel();
    return Boolean(by) || key === "Enter";
  }
  if (target.matches("input, select, .scroll") || state.view === "summary" || !/Left|Right/.test(key)) return false;
  step(arrow);
  return true;
}

function onClick({ target }) {
  const unit = target.closest(".text .unit");
  if (unit) {
    const block = blocks.get(unit.closest(".text"));
    beside.take(block, Number(unit.dataset.n));
    pointAt(block, Number(unit.dataset.n));
  }
  const button = target.closest("[data-view], [data-row], [data-place], [data-show], [data-without]");
  const { view, row, place, show: filter, without } = button?.dataset ?? {};
  if (view === "summary") go({ view });
  else if (view) openReview(state.review ?? shown[0] ?? placeOf.get(reviews[0]?.index), view);
  else if (row) go({ row });
  else if (without) go({ without: state.without === without ? "0" : without });
  else if (place) {
    openReview(Number(place));
    if (document.body.classList.contains("panel-open")) leavePanel();
  } else if (filter) {
    go({ ...NO_FILTER, ...JSON.parse(filter) });
    if (getComputedStyle($("panel")).display === "none") showPanel(true);
    else $("list").focus();
  }
}

function listen() {
  const on = (id, type, handler) => $(id).addEventListener(type, handler);
  document.addEventListener("keydown", (event) => { if (onKey(event)) event.preventDefault(); });
  document.addEventListener("click", onClick);
  document.addEventListener("pointerover", ({ target }) => {
    const unit = target.closest(".text .unit");
    clearTimeout(hiding);
    if (unit) showTip(blocks.get(unit.closest(".text")), Number(unit.dataset.n));
    else if (!target.closest("#tip")) hiding = setTimeout(hideTip, 150); // the tip can be pointed at, and selected
  });
  document.addEventListener("focusin", ({ target }) => {
    const block = blocks.get(target);
    if (block?.elements.length && target.matches(":focus-visible")) pointAt(block, Math.max(block.current, 0));
  });
  document.addEventListener("focusout", ({ target }) => { if (blocks.has(target)) hideTip(); });
  addEventListener("scroll", placeTip, { passive: true });
  addEventListener("resize", placeTip);
  addEventListener("popstate", () => show(readAddress()));
  on("search", "input", ({ target }) => go({ q: target.value }));
  on("filters", "change", ({ target }) => { if (target.name) go({ [target.name]: target.value }); });
  on("filters", "submit", (event) => event.preventDefault());
  on("method", "change", ({ target }) => go({ method: target.value }));
  on("units", "change", ({ target }) => go({ unit: target.value }));
  on("without", "input", ({ target }) => go({ without: target.value }));
  on("previous", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("open-list", "click", () => showPanel(true));
  on("close-list", "click", () => showPanel(false));
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address belongs to the review
    $("main").focus();
  });
}

// --------------------------------------------------------------------------------------------------------------- start

const TITLE = document.title;
const beside = makeBeside({ $, el, all, report, reviews, percent, signed, excerpt, pairs, pointAt, go });
for (const element of all("[data-share]")) element.style.setProperty("--share", element.dataset.share);
$("method-control").hidden = methods.length < 2;
listen();
show(readAddress());
})();
