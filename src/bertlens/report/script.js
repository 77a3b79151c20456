// Everything the page does. What reviewers wrote reaches the document as text nodes only; there is no innerHTML here, and
// the page's policy (trusted-types 'none') would refuse it. Styles are set through CSSOM, which the policy allows.
//
// One object, `state`, says what is on screen; the address holds it; `go(changes)` is the only way to change it.
"use strict";
(() => {

// ---------------------------------------------------------------------------------------------------- small tools

const $ = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// given: a class, or attributes
function el(tag, given = "", ...children) {
  const element = document.createElement(tag);
  const attributes = typeof given === "object" ? given : given ? { class: given } : {};
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children); // strings become text nodes
  return element;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const largest = (numbers) => numbers.reduce((most, number) => Math.max(most, number), 0);

function takeJson(id) {
  const block = $(id);
  const value = JSON.parse(block.textContent);
  block.remove(); // megabytes that nobody needs twice
  return value;
}

// A browser may refuse storage to a page opened from a file; then a choice lasts as long as the page.
function remember(key, value) {
  try {
    if (value === undefined) return localStorage.getItem(`bertlens.${key}`);
    localStorage.setItem(`bertlens.${key}`, value);
  } catch { /* see above */ }
  return null;
}

// ------------------------------------------------------------------------------------------------ text from reviews

const LINE_BREAK = /<br\s*\/?>/gi;
// The same, and characters that show nothing or reorder what is around them; joiners are left to join.
const SPECIAL = /<br\s*\/?>|\r\n?|(?![\t\n\r\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/giu;
const codePoint = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

// On one line, for titles and lists.
function plain(text) {
  return text.replace(SPECIAL, (found) => (/^[<\r]/.test(found) ? " " : `⟨${codePoint(found)}⟩`));
}

function excerpt(text, start, length) {
  return plain(text.slice(start, start + length).replace(/^[\udc00-\udfff]|[\ud800-\udbff]$/g, ""));
}

// As written, with line breaks, and hidden characters spelled out.
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

// ----------------------------------------------------------------------------------------------------- the reviews

const report = takeJson("report-facts");
const reviews = takeJson("report-reviews");
const placeOf = new Map();
reviews.forEach((review, place) => {
  review.confidence = Math.max(...review.probabilities);
  review.verdict = review.probabilities.indexOf(review.confidence);
  review.right = review.label === null ? null : review.label === review.verdict;
  if (!placeOf.has(review.index)) placeOf.set(review.index, place);
});

function decode(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < bytes.length; at += 1) bytes[at] = binary.charCodeAt(at);
  return new Float32Array(bytes.buffer); // little-endian, like every machine that runs a browser
}

// A review with its weights unpacked; only the one on screen is.
class OpenReview {
  constructor(review) {
    this.review = review;
    this.length = review.tokens.length;
    this.weights = decode(review.weights);
    this.rollout = review.rollout && decode(review.rollout);
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

  // A weight for each piece. head: from 1, or "mean".
  row(layer, head) {
    if (layer === "rollout") return this.rollout;
    const start = report.layers.indexOf(Number(layer)) * report.heads * this.length;
    const ofHead = (index) => this.weights.subarray(start + index * this.length, start + (index + 1) * this.length);
    if (head !== "mean") return ofHead(Number(head) - 1);
    const mean = new Float64Array(this.length);
    for (let index = 0; index < report.heads; index += 1) ofHead(index).forEach((weight, at) => { mean[at] += weight; });
    return mean.map((total) => total / report.heads);
  }

  share(row, kind) {
    return sum([...row].filter((_, piece) => this.review.kinds[piece] === kind));
  }
}

const unitWeights = (units, row) => units.map(({ from, to }) => sum(row.slice(from, to)));
const isWord = (text) => /[\p{L}\p{N}]/u.test(text);

// ----------------------------------------------------------------------------------- what is on screen, and its address

const headNames = ["mean", ...Array.from({ length: report.heads }, (_, index) => String(index + 1))];
const headName = (head) => (head === "mean" ? "Mean of the heads" : `Head ${head}`);
const classes = ["any", ...report.labels.map((_, index) => String(index))];
const ALLOWED = {
  view: ["summary", "reading", "classic"],
  layer: [...report.layers.map(String), ...(report.rollout ? ["rollout"] : [])],
  head: headNames,
  unit: ["words", "pieces"],
  result: ["all", "right", "wrong"],
  label: classes,
  verdict: classes,
  sort: ["order", "surest", "unsurest"],
};
const NO_FILTER = { result: "all", label: "any", verdict: "any", sort: "order", q: "" };
const DEFAULTS = {
  view: "summary", review: null, layer: String(report.layers.at(-1)), head: "mean", unit: "words", ...NO_FILTER,
};
let state = {};
let shown = []; // places of the reviews that the filters leave, in the list's order

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const read = { ...DEFAULTS, q: given.get("q") ?? "" };
  for (const [key, allowed] of Object.entries(ALLOWED)) if (allowed.includes(given.get(key))) read[key] = given.get(key);
  read.review = placeOf.get(Number(given.get("review") || NaN)) ?? null;
  if (read.review !== null && !given.has("view")) read.view = "reading";
  if (read.review === null) read.view = "summary";
  return read;
}

function writeAddress(push) {
  const given = new URLSearchParams();
  if (state.review !== null) {
    given.set("review", reviews[state.review].index);
    for (const key of ["head", "layer", "view"]) given.set(key, state[key]);
  }
  for (const key of ["unit", ...Object.keys(NO_FILTER)]) {
    if (state[key] !== DEFAULTS[key]) given.set(key, state[key]);
  }
  const address = `#${given}`;
  if (address === (location.hash || "#")) return;
  try {
    history[push ? "pushState" : "replaceState"](null, "", address);
  } catch { /* some browsers limit how often; the next move writes it */ }
}

function go(changes) {
  const push = changes.view !== undefined && changes.view !== state.view; // "back" leads to the last view
  show({ ...state, ...changes });
  writeAddress(push);
}

function show(next) {
  const before = state;
  state = next;
  if (Object.keys(NO_FILTER).some((key) => state[key] !== before[key])) filterReviews();
  else if (state.review !== before.review) drawRows();
  if (state.review !== null && state.review !== before.review) scrollToRow(state.review);
  hideTip();
  showView();
}

function openReview(place, view = state.view === "classic" ? "classic" : "reading") {
  if (place === undefined) return;
  go({ review: place, view });
  const { index, verdict, right } = reviews[place];
  say(`Review ${index}: ${report.labels[verdict]}${right === null ? "" : right ? ", right" : ", wrong"}`);
}

function step(by) {
  const at = shown.indexOf(state.review);
  const to = at >= 0 ? at + by : by > 0 ? by - 1 : shown.length + by;
  openReview(shown[Math.min(Math.max(to, 0), shown.length - 1)]);
}

function say(message) {
  $("live").textContent = message;
}

// ------------------------------------------------------------------------------------------------- the list of reviews

const ROW_HEIGHT = 68; // as in style.css
const SPARE_ROWS = 4;

function filterReviews() {
  const query = state.q.toLowerCase();
  const keeps = (review) => (state.result === "all" || review.right === (state.result === "right"))
    && (state.label === "any" || review.label === Number(state.label))
    && (state.verdict === "any" || review.verdict === Number(state.verdict))
    && (!query || (review.lower ??= review.text.toLowerCase()).includes(query));
  shown = [...reviews.keys()].filter((place) => keeps(reviews[place]));
  const sign = { order: 0, surest: -1, unsurest: 1 }[state.sort];
  if (sign) shown.sort((a, b) => sign * (reviews[a].confidence - reviews[b].confidence) || a - b);
  for (const input of all("#filters input[type=radio]")) input.checked = input.value === state.result;
  for (const select of all("#filters select")) select.value = state[select.name];
  if ($("search").value !== state.q) $("search").value = state.q;
  $("count").textContent = shown.length === reviews.length ? `${shown.length} reviews`
    : shown.length ? `${shown.length} of ${reviews.length} reviews` : "No review fits. Ask for less.";
  $("rows").style.height = `${shown.length * ROW_HEIGHT}px`;
  $("list").scrollTop = 0;
  drawRows();
}

// Only the rows in sight, and a few more, exist.
function drawRows() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - SPARE_ROWS);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + SPARE_ROWS);
  $("rows").replaceChildren(...shown.slice(first, last).map((place, at) => row(place, first + at)));
  if ($(`row-${state.review}`)) list.setAttribute("aria-activedescendant", `row-${state.review}`);
  else list.removeAttribute("aria-activedescendant");
}

function row(place, at) {
  const { index, text, verdict, confidence, right, label } = reviews[place];
  const found = state.q ? reviews[place].lower.indexOf(state.q.toLowerCase()) : 0;
  const result = right === null ? "" : right ? "✓ right" : "✗ wrong";
  const attributes = {
    class: "row", id: `row-${place}`, "data-place": place, role: "option", "aria-selected": place === state.review,
    "aria-posinset": at + 1, "aria-setsize": shown.length,
    title: `verdict ${report.labels[verdict]}; label ${label === null ? "unknown" : report.labels[label]}`,
  };
  const option = el("div", attributes,
    el("div", "row-head",
      el("span", "number", `${index}`),
      el("bdi", "name", report.labels[verdict]),
      el("span", right === false ? "wrong" : "right", result),
      el("span", "number confidence", percent(confidence))),
    el("bdi", "excerpt", (found > 20 ? "… " : "") + excerpt(text, found > 20 ? found - 20 : 0, 160)));
  option.style.top = `${at * ROW_HEIGHT}px`;
  return option;
}

function scrollToRow(place) {
  const list = $("list");
  const top = shown.indexOf(place) * ROW_HEIGHT;
  if (top < 0) return;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
  drawRows();
}

function showPanel(open) {
  document.body.classList.toggle("panel-open", open);
  $("open-list").setAttribute("aria-expanded", open);
  for (const element of [$("main"), ...all("header.top, footer")]) element.inert = open;
  if (open) drawRows();
  $(open ? "search" : "open-list").focus();
}

// --------------------------------------------------------------------------------------------- one review: what is shown

let open = null; // the review on screen
let drawn = {}; // what the reading pane and the classic view last drew, so that a change of head only recolours
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
  $("layer").value = state.layer;
  if (reading) showReading();
  else showClassic();
}

function showReviewHead() {
  const { index, verdict, confidence, right, label, probabilities } = open.review;
  $("review-title").textContent = `Review ${index}`;
  $("verdict").replaceChildren(
    ...(right === null ? [] : [el("span", right ? "right" : "wrong", right ? "✓ right" : "✗ wrong"), " "]),
    "verdict ", el("bdi", "name", report.labels[verdict]), `, ${percent(confidence)} sure; label `,
    label === null ? "unknown" : el("bdi", "name", report.labels[label]));
  pairs($("classes"), probabilities.map((probability, at) => [report.labels[at], probability])
    .sort((a, b) => b[1] - a[1]));
}

function pairs(list, rows) {
  list.replaceChildren(...rows.map(([name, share]) =>
    el("div", "", el("dt", "", el("bdi", "", name)), el("dd", "number", percent(share)))));
}

function paint(element, share) {
  element.style.setProperty("--a", share.toFixed(4));
}

// ----------------------------------------------------------------------------------------------------- the reading pane

function showReading() {
  const { layer, head, unit } = state;
  const units = open[unit];
  if (drawn.unit !== unit) drawText(units);
  const row = open.row(layer, head);
  const block = blocks.get($("text"));
  const most = block.setWeights(unitWeights(units, row));
  block.elements.forEach((element, n) => paint(element, most > 0 ? block.weights[n] / most : 0));
  $("reading-title").textContent = layer === "rollout" ? "Attention rollout, all layers"
    : `${headName(head)}, layer ${layer}`;
  $("scale-caption").textContent = `0 to ${most.toFixed(3)}, the largest weight on this text`;
  showHeads(units);
  showShares(row);
  showStrongest(block);
  for (const input of all("#units input")) input.checked = input.value === unit;
  drawn.unit = unit;
}

// A text whose units can be pointed at. noun: what a unit is called.
class Block {
  constructor(root, noun, names, pieces, elements) {
    Object.assign(this, { noun, names, pieces, elements, current: -1 });
    elements.forEach((element, n) => { element.dataset.n = n; });
    blocks.set(root, this);
  }

  setWeights(weights) {
    this.weights = weights;
    this.ranks = null;
    return largest(weights);
  }

  get order() { // the units by weight, strongest first
    this.ranks ??= [...this.weights.keys()].sort((a, b) => this.weights[b] - this.weights[a] || a - b);
    return this.ranks;
  }

  describe(n) {
    return [`weight ${this.weights[n].toFixed(3)}`, `rank ${this.order.indexOf(n) + 1} of ${this.weights.length}`,
      `${this.noun} ${n + 1} of ${this.weights.length}`];
  }
}

function drawText(units) {
  const root = $("text");
  const { text, tokens } = open.review;
  root.replaceChildren();
  let done = 0;
  let anyUnseen = false;
  const elements = [];
  const appendGap = (end) => {
    const unseen = /\S/.test(text.slice(done, end).replace(LINE_BREAK, ""));
    anyUnseen ||= unseen;
    appendMarked(unseen ? root.appendChild(el("span", "unseen")) : root, done, end);
  };
  // where cleaning leaves <br /> to the model, its pieces are shown, and then the break
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
  $("unseen-legend").hidden = !anyUnseen;
  $("span-legend").hidden = !open.review.spans.length;
}

// Characters [start, end), those that decide the label underlined.
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

function showShares(row) {
  const kinds = [["words", "w"], ["punctuation", "p"], ["[CLS]", "c"], ["[SEP]", "s"]];
  const rows = kinds.map(([name, kind]) => [name, open.share(row, kind)]);
  pairs($("shares"), rows);
  $("shares-bar").replaceChildren(...rows.map(([, share]) => {
    const part = el("span");
    part.style.flexGrow = share;
    return part;
  }));
}

function showStrongest(block) {
  const text = (n) => open.review.text.slice(open[state.unit][n].start, open[state.unit][n].end);
  $("strongest-title").textContent = state.unit === "words" ? "Strongest words" : "Strongest word pieces";
  $("strongest").replaceChildren(...block.order.filter((n) => isWord(text(n))).slice(0, 8).map((n) => {
    const button = el("button", { class: "bar", type: "button" }, el("bdi", "", block.names[n]));
    button.style.setProperty("--share", block.weights[n] / block.weights[block.order[0]]);
    button.addEventListener("click", () => { $("text").focus(); pointAt(block, n); });
    return el("li", "", button, el("span", "number", block.weights[n].toFixed(3)));
  }));
}

// ------------------------------------------------------------------------------------------- all heads, as small pictures

function showHeads(units) {
  const box = $("heads");
  box.parentElement.hidden = state.layer === "rollout"; // which has no heads
  if (state.layer === "rollout") return;
  if (!box.childElementCount) box.append(...headNames.map(headButton));
  const wanted = [state.layer, state.unit, theme(), innerWidth].join();
  const stale = drawn.heads !== wanted;
  drawn.heads = wanted;
  const widths = stale && all("canvas", box).map((canvas) => canvas.clientWidth); // all before any is painted
  [...box.children].forEach((button, at) => {
    const head = headNames[at];
    button.setAttribute("aria-checked", head === state.head);
    button.tabIndex = head === state.head ? 0 : -1;
    if (!stale) return;
    const row = open.row(state.layer, head);
    const share = `${(100 * open.share(row, "w")).toFixed(0)} %`;
    button.querySelector(".number").textContent = share;
    button.setAttribute("aria-label", `${headName(head)}, ${share} on words`);
    drawThumbnail(button.querySelector("canvas"), widths[at], units, unitWeights(units, row));
  });
}

function headButton(head) {
  return el("button", { class: "head", type: "button", role: "radio", "data-head": head }, el("canvas"),
    el("span", "caption", el("span", "", head === "mean" ? "Mean of the heads" : head), el("span", "number")));
}

// The text as lines of small bars, one for each unit, as wide as it is long.
function drawThumbnail(canvas, width, units, weights) {
  const height = 48; // as in style.css
  const ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const lengths = units.map(({ start, end }) => Math.min(end - start, 30) + 1);
  const size = Math.min(3, Math.max(0.4, Math.sqrt((width * height) / (2.6 * Math.max(1, sum(lengths))))));
  const most = largest(weights);
  const style = getComputedStyle(canvas);
  let [x, y] = [0, 0];
  lengths.forEach((length, n) => {
    if (x + length * size > width) [x, y] = [0, y + 2.2 * size];
    for (const [colour, alpha] of [[style.fill, 1], [style.color, most > 0 ? weights[n] / most : 0]]) {
      context.fillStyle = colour;
      context.globalAlpha = alpha;
      context.fillRect(x, y, (length - 1) * size, 1.7 * size);
    }
    x += length * size;
  });
}

// ------------------------------------------------------------------------------------------------------ the classic view

// The notebook's picture: every head, then their mean; pieces up to [SEP]; the largest weight, [SEP]'s included, is 1.
function showClassic() {
  if (drawn.classic === state.layer) return;
  drawn.classic = state.layer;
  const { tokens, kinds, label, verdict } = open.review;
  const end = kinds.endsWith("s") ? tokens.length - 1 : tokens.length;
  const names = tokens.slice(0, end).map(plain);
  const picture = (title, row) => {
    const elements = names.map((name) => el("span", "unit", ` ${name}`));
    const root = el("div", { class: "text", tabindex: 0, role: "group", "aria-label": title }, ...elements);
    const block = new Block(root, "piece", names, names, elements);
    block.setWeights(Array.from(row));
    const most = largest(block.weights);
    elements.forEach((element, n) => paint(element, most > 0 ? row[n] / most : 0));
    return el("section", "picture", el("h3", "", title), root);
  };
  const heads = state.layer === "rollout" ? [] : [...headNames.slice(1), "mean"];
  $("pictures").replaceChildren(
    el("p", "", "True label: ", el("b", "", label === null ? "unknown" : report.labels[label]), el("br"),
      "Predicted label: ", el("b", "", report.labels[verdict])),
    ...heads.map((head) => picture(headName(head), open.row(state.layer, head))),
    ...(heads.length ? [] : [picture("Attention rollout, all layers", open.rollout)]));
}

// ------------------------------------------------------------------------------------------------ pointing at a word

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
  say(`${block.names[n]}: ${block.describe(n).join(", ")}`);
}

function onTextKey(event, block) {
  const { current, order, elements } = block;
  if (!elements.length) return false;
  const rank = order.indexOf(current);
  const inText = (n) => Math.min(Math.max(n, 0), elements.length - 1);
  const byRank = (by) => { // [SEP] has a weight in the classic view, but no place in the text
    const rest = order.filter((n) => n < elements.length);
    return rest[inText(current < 0 ? 0 : rest.indexOf(order[rank]) + by)];
  };
  const next = {
    ArrowRight: () => inText(current + 1), ArrowLeft: () => inText(current - 1),
    ArrowUp: () => byRank(-1), ArrowDown: () => byRank(1), Home: () => 0, End: () => elements.length - 1,
  }[event.key];
  if (next) pointAt(block, next());
  return Boolean(next);
}

// ------------------------------------------------------------------------------------------------------------- controls

function theme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function setTheme(chosen) {
  if (chosen) document.documentElement.dataset.theme = chosen;
  $("theme").setAttribute("aria-pressed", theme() === "dark");
  if (open && state.view === "reading") showReading(); // the small pictures are pixels
}

function onKey(event) {
  const { key, target } = event;
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return false;
  if (key === "Escape") {
    const panelOpen = document.body.classList.contains("panel-open");
    if (panelOpen) showPanel(false);
    hideTip();
    return panelOpen; // otherwise it empties the search field
  }
  if (target.matches("input:not([type=radio], [type=checkbox]), select")) return false;
  if ($("letter-keys").checked && "jk/".includes(key) && key.length === 1) {
    if (key !== "/") step(key === "j" ? 1 : -1);
    else if (getComputedStyle($("panel")).display === "none") showPanel(true);
    else $("search").focus();
    return true;
  }
  const text = target.closest(".text");
  if (text) return onTextKey(event, blocks.get(text));
  const arrow = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[key];
  if (target.closest("#heads")) {
    if (!arrow) return false;
    const at = (headNames.indexOf(state.head) + arrow + headNames.length) % headNames.length;
    go({ head: headNames[at] });
    $("heads").children[at].focus();
    return true;
  }
  if (target.closest("#list")) {
    const page = Math.max(1, Math.floor($("list").clientHeight / ROW_HEIGHT) - 1);
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[key];
    if (by) step(by);
    else if (key === "Enter" && state.review !== null) leavePanel();
    return Boolean(by) || key === "Enter";
  }
  if (target.matches("input, select, summary, .scroll") || state.view === "summary" || !/Left|Right/.test(key)) return false;
  if (arrow) step(arrow);
  return Boolean(arrow);
}

function leavePanel() {
  if (document.body.classList.contains("panel-open")) showPanel(false);
  $("main").focus();
}

function listen() {
  const on = (id, type, handler) => $(id).addEventListener(type, handler);
  document.addEventListener("keydown", (event) => { if (onKey(event)) event.preventDefault(); });
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-view], [data-show], [data-head], [data-place]");
    const unit = target.closest(".text .unit");
    if (unit) pointAt(blocks.get(unit.closest(".text")), Number(unit.dataset.n));
    else if (!button) return;
    else if (button.dataset.view === "summary") go({ view: "summary" });
    else if (button.dataset.view) openReview(state.review ?? shown[0] ?? placeOf.get(reviews[0]?.index), button.dataset.view);
    else if (button.dataset.head) go({ head: button.dataset.head });
    else if (button.dataset.place) {
      openReview(Number(button.dataset.place));
      if (document.body.classList.contains("panel-open")) leavePanel();
    } else {
      go({ ...NO_FILTER, ...JSON.parse(button.dataset.show) });
      if (getComputedStyle($("panel")).display === "none") showPanel(true);
      else $("list").focus();
    }
  });
  document.addEventListener("pointerover", ({ target }) => {
    const unit = target.closest(".text .unit");
    if (unit) showTip(blocks.get(unit.closest(".text")), Number(unit.dataset.n));
    else if (target.closest("#tip")) clearTimeout(hiding); // it can be pointed at, and selected
    else {
      clearTimeout(hiding);
      hiding = setTimeout(hideTip, 150);
    }
  });
  document.addEventListener("focusin", ({ target }) => {
    const block = blocks.get(target);
    if (block?.elements.length && target.matches(":focus-visible")) pointAt(block, Math.max(block.current, 0));
  });
  document.addEventListener("focusout", ({ target }) => { if (blocks.has(target)) hideTip(); });
  addEventListener("scroll", placeTip, { passive: true });
  addEventListener("resize", () => { drawRows(); showView(); });
  addEventListener("popstate", () => show(readAddress()));
  on("list", "scroll", () => requestAnimationFrame(drawRows));
  on("search", "input", ({ target }) => go({ q: target.value }));
  on("filters", "change", ({ target }) => { if (target.name) go({ [target.name]: target.value }); });
  on("filters", "submit", (event) => event.preventDefault());
  on("layer", "change", ({ target }) => go({ layer: target.value }));
  on("units", "change", ({ target }) => go({ unit: target.value }));
  on("previous", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("open-list", "click", () => showPanel(true));
  on("close-list", "click", () => showPanel(false));
  on("theme", "click", () => {
    const chosen = theme() === "dark" ? "light" : "dark";
    remember("theme", chosen);
    setTheme(chosen);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme());
  on("letter-keys", "change", ({ target }) => remember("letter-keys", target.checked ? "on" : "off"));
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address belongs to the review
    $("main").focus();
  });
}

// ---------------------------------------------------------------------------------------------------------------- start

const TITLE = document.title;
for (const element of all("[data-share]")) element.style.setProperty("--share", element.dataset.share);
for (const [value, number] of [["all", reviews.length], ["right", reviews.filter((review) => review.right).length],
  ["wrong", reviews.filter((review) => review.right === false).length]]) {
  const count = document.querySelector(`#filters input[value=${value}] + span b`);
  if (count) count.textContent = number;
}
$("layer-control").hidden = ALLOWED.layer.length < 2;
$("letter-keys").checked = remember("letter-keys") !== "off";
listen();
setTheme({ dark: "dark", light: "light" }[remember("theme")]);
show(readAddress());
})();
