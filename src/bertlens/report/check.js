// What stands beside the text of a review: what its colours and numbers mean, the strongest words, and the check by
// hand: what the model says without some of the words, all of it measured when the page was made.
"use strict";
// page: what script.js lends
const makeBeside = ({ $, el, all, report, reviews, percent, signed, excerpt, pairs, pointAt, go }) => {

const isWord = (text) => /[\p{L}\p{N}]/u.test(text);
const countWords = (text) => text.match(/[\p{L}\p{N}]+/gu)?.length ?? 0;
const label = (at) => el("bdi", "name", report.labels[at]);
const decimals = (share) => share.toFixed(share > 0.995 || share < 0.005 ? 3 : 2);
const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

// ----------------------------------------------------------------------------------- what colours and numbers mean

function showLegend({ open, method, block }) {
  const { label: truth, predicted, contrast } = open.review;
  const most = method.scale ?? Math.max(...block.weights.map(Math.abs), 0);
  $("text").classList.toggle("signed", method.signed);
  $("scale-caption").textContent = method.signed ? `full colour at ${most.toFixed(2)} and more: one scale on the whole page`
    : `0 to ${most.toFixed(3)}, the largest weight on this text`;
  $("for-legend").hidden = $("against-legend").hidden = !method.signed;
  $("for-label").replaceChildren(label(predicted));
  $("against-label").replaceChildren(label(contrast));
  const unseen = all("#text .unseen").map((element) => element.textContent).join(" ");
  const cutOff = countWords(unseen) / countWords($("text").textContent);
  $("unseen-legend").hidden = !unseen;
  $("unseen-share").textContent = cutOff > 0 ? `: ${percent(cutOff)} of the words` : "";
  $("span-legend").hidden = !open.review.spans.length;
  $("compared").replaceChildren("Label ", truth === null ? "unknown" : label(truth),
    ", predicted ", label(predicted), ...(method.signed ? [", compared with ", label(contrast)] : []), ".");
  $("sentence").textContent = method.sentence;
}

// A method without a sign: shares of its total. With one: bars that begin where the one before ends.
function showSums({ open, method, rowNumber }) {
  const kinds = [["words", "w"], ["punctuation", "p"], ["[CLS]", "c"], ["[SEP]", "s"]];
  const row = open.row(method, rowNumber);
  const shares = kinds.map(([name, kind]) => [name, open.share(row, kind)]);
  $("shares").hidden = !method.summed || method.signed;
  $("sums").hidden = !method.summed || !method.signed;
  if (!$("shares").hidden) pairs($("shares"), shares);
  if ($("sums").hidden) return;
  const { predicted, contrast, outside } = open.review;
  const { nothing, probabilities, padding } = outside[method.first + rowNumber] ?? { nothing: null, padding: 0 };
  const parts = [["nothing read", nothing ?? 0], ...shares, ["padding", padding]]
    .filter(([name, value]) => name === "words" || Math.abs(value) >= 0.0005);
  const ends = [0];
  for (const [, value] of parts) ends.push(ends.at(-1) + value);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const total = ends.at(-1);
  const bar = (name, value, from, to) => {
    const filled = el("span", value < 0 ? "fill against" : "fill for");
    const zero = el("span", "zero");
    const at = (end) => `${(100 * (end - low)) / (high - low || 1)}%`;
    filled.style.left = at(Math.min(from, to));
    filled.style.width = `${(100 * Math.abs(to - from)) / (high - low || 1)}%`;
    zero.style.left = at(0);
    return el("div", name === "sum" ? "total" : "", el("dt", "", name), el("dd", "track", filled, zero),
      el("dd", "number", signed(value)));
  };
  $("bars").replaceChildren(...parts.map(([name, value], at) => bar(name, value, ends[at], ends[at + 1])),
    bar("sum", total, 0, total));
  $("sums-note").replaceChildren("Above 0 speaks for ", label(predicted), ", below 0 for ", label(contrast), ". ");
  if (!probabilities) return;
  const says = probabilities.indexOf(Math.max(...probabilities));
  $("sums-note").append("The sum is the logit of ", label(predicted), " minus that of ", label(contrast),
    ". “Nothing read” is a prediction of its own: before the model reads any of these, it says ", label(says),
    `, ${decimals(probabilities[says])}.`);
}

function showStrongest({ method, block }) {
  $("strongest-title").textContent = `${block.noun === "word" ? "Words" : "Word pieces"} with the largest ${method.number}`;
  const found = block.order.filter((n) => isWord(block.names[n])).slice(0, 8);
  $("strongest").replaceChildren(...found.map((n) => {
    const weight = block.weights[n];
    const hue = method.signed ? (weight < 0 ? " against" : " for") : "";
    const button = el("button", { class: `bar${hue}`, type: "button" }, el("bdi", "", block.names[n]));
    button.style.setProperty("--share", Math.abs(weight / block.weights[block.order[0]]));
    button.addEventListener("click", () => { $("text").focus(); pointAt(block, n); });
    return el("li", "", button, el("span", "number", method.signed ? signed(weight) : weight.toFixed(3)));
  }));
}

// ------------------------------------------------------------------------------------------------- the check by hand

// A review's check, and the places of its words: `words` [from, to) in pieces, with their text.
class OpenCheck {
  constructor(open) {
    Object.assign(this, { review: open.review, ...open.review.check });
    this.words = [];
    let from = 0;
    for (const size of open.review.words) {
      while ("cs".includes(open.review.kinds[from])) from += 1;
      const [start, end] = [open.starts[from], open.ends[from + size - 1]];
      this.words.push({ from, to: from + size, name: excerpt(open.review.text, start, Math.min(end - start, 40)) });
      from += size;
    }
  }

  // The words that are struck out: the first so many leading ones, or one alone ("w3").
  struck(without) {
    const place = Number(without.replace("w", ""));
    if (without[0] === "w") return this.order.slice(place, place + 1);
    return this.order.slice(0, place);
  }

  // What the model says without them: the prediction's probability, the class it predicts, and the random band's ends.
  measure(without) {
    const struck = this.struck(without);
    const alone = without[0] === "w" && struck.length;
    const [probability, says] = alone ? this.alone[Number(without.slice(1))] : this.removed[struck.length];
    const near = this.counts.findIndex((number) => number >= struck.length);
    const at = near < 0 ? this.counts.length - 1 : near; // so many random words or more, where as many were measured
    return { struck, alone, probability, says, random: [this.counts[at], this.low[at], this.high[at]] };
  }

  share(number) {
    return number / this.words.filter(({ name }) => isWord(name)).length;
  }
}

let check = null; // of the review on screen

function showCheck({ open, method, rowNumber, block, units, without }) {
  const leads = method.first + rowNumber === 0;
  const measured = Boolean(open.review.check);
  if (check?.review !== open.review) {
    check = measured ? new OpenCheck(open) : null;
    if (check) drawCheck();
  }
  $("check-body").hidden = !measured || !leads;
  $("check-other").hidden = !measured || leads;
  $("check-missing").hidden = measured;
  $("doubt").hidden = !leads || check?.holds !== false;
  const usable = check && leads;
  const struck = new Set(usable ? check.struck(without) : []);
  // of each unit: its place among the leading words, or undefined
  block.leading = units.map(({ from, to }) => (usable
    ? check.order.map((word, n) => [check.words[word], n]).find(([word]) => word.from < to && from < word.to)?.[1] : undefined));
  block.leading.forEach((place, n) => {
    block.elements[n].classList.toggle("struck", place !== undefined && struck.has(check.order[place]));
    block.elements[n].classList.toggle("leading", place !== undefined);
    if (place !== undefined && without === `w${place}`) {
      block.notes.set(n, [`without this word alone ${decimals(check.alone[place][0])}`]);
    }
  });
  if (usable) showMeasured(without);
}

function showMeasured(without) {
  const { struck, alone, probability, says, random } = check.measure(without);
  const { predicted } = check.review;
  const before = check.removed[0][0];
  const [number, low, high] = random;
  const words = alone ? ["“", el("bdi", "", check.words[struck[0]].name), "” alone"]
    : [`the ${struck.length === 1 ? "word" : `${struck.length} words`} struck out`];
  const chance = number === 1 ? "a random word" : `${number} random words`;
  const digits = decimals(before) === decimals(probability) ? 3 : 2; // a small change is shown too
  const change = `${before.toFixed(digits)} → ${probability.toFixed(digits)}`;
  $("measured").replaceChildren(...(!struck.length
    ? ["With every word the model says ", label(predicted), `: ${decimals(before)}. Move the slider to strike words out.`]
    : ["Without ", ...words, ` (${percent(check.share(struck.length))} of the text) the model says `, label(predicted),
      `: ${change}`, ...(says === predicted ? [] : [", so it now says ", label(says)]), ". ",
      ...(number ? [`Without ${chance}: ${decimals(low)} to ${decimals(high)}.`] : []),
      ...(number === struck.length && probability >= low ? [" That is no more than random words do."] : [])]));
  $("kept").textContent = struck.length && !alone
    ? `With only ${struck.length === 1 ? "this word" : `these ${struck.length} words`} left: ${decimals(check.kept[struck.length][0])}.` : "";
  const slider = $("without");
  slider.value = alone ? 0 : struck.length;
  slider.setAttribute("aria-valuetext", `${plural(alone ? 0 : struck.length, "word")} struck out`);
  for (const button of all("#leading button")) button.setAttribute("aria-pressed", button.dataset.without === without);
  moveMarker(alone ? 1 : struck.length, probability, alone ? null : check.kept[struck.length][0]);
}

// --------------------------------------------------------------------------------------------------------- its curves

const [LEFT, RIGHT, TOP, BOTTOM] = [26, 272, 8, 132];
const x = (number) => LEFT + ((RIGHT - LEFT) * number) / check.order.length;
const y = (probability) => BOTTOM - (BOTTOM - TOP) * probability;

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function drawCheck() {
  const { order, removed, kept, counts, low, high, holds, agreement, review } = check;
  const points = (pairs) => pairs.map(([number, probability]) => `${x(number).toFixed(1)},${y(probability).toFixed(1)}`).join(" ");
  const curve = (measured) => points(measured.map(([probability], number) => [number, probability]));
  const start = [0, removed[0][0]];
  const edge = (ends) => [start, ...counts.map((number, at) => [number, ends[at]])];
  const line = (x1, y1, x2, y2) => svg("line", { x1, y1, x2, y2, class: "axis" });
  const text = (at, height, anchor, what) => svg("text", { x: at, y: height, "text-anchor": anchor }, what);
  $("curves").replaceChildren(
    ...[0, 0.5, 1].flatMap((share) => [line(LEFT, y(share), RIGHT, y(share)), text(LEFT - 4, y(share) + 3.5, "end", `${share}`)]),
    ...[0, ...counts].map((number) => text(x(number), BOTTOM + 13, "middle", `${number}`)),
    svg("polygon", { class: "band", points: points([...edge(high), ...edge(low).reverse()]) }),
    svg("polyline", { class: "curve kept", points: curve(kept) }),
    svg("polyline", { class: "curve", points: curve(removed) }),
    svg("line", { id: "marker", class: "marker", y1: TOP, y2: BOTTOM }),
    svg("circle", { id: "marker-kept", class: "dot kept", r: 3.5 }),
    svg("circle", { id: "marker-removed", class: "dot", r: 3.5 }));
  $("curves").setAttribute("aria-label", `Probability of ${report.labels[review.predicted]}: ${decimals(start[1])} with every word; `
    + `${decimals(removed.at(-1)[0])} without the ${order.length} leading words, ${decimals(kept.at(-1)[0])} with only these left`
    + (counts.length ? `; ${decimals(low.at(-1))} to ${decimals(high.at(-1))} without ${counts.at(-1)} random words.` : "."));
  $("curve-label").replaceChildren(label(review.predicted));
  $("verdict").className = holds === null ? "" : holds ? "right" : "wrong";
  $("verdict").textContent = holds === null ? "Too few words to tell whether the reason holds" : holds
    ? "✓ The reason holds for this review" : "✗ The reason does not hold for this review";
  $("without").max = order.length;
  $("leading").replaceChildren(...order.map((word, n) => el("button",
    { class: "chip", type: "button", "data-without": `w${n}` }, el("bdi", "", check.words[word].name))));
  $("agreement").hidden = agreement === null;
  $("agreement-number").textContent = agreement?.toFixed(2) ?? "";
}

function moveMarker(number, removed, kept) {
  const set = (id, attributes) => { for (const [name, value] of Object.entries(attributes)) $(id).setAttribute(name, value); };
  set("marker", { x1: x(number), x2: x(number) });
  set("marker-removed", { cx: x(number), cy: y(removed) });
  set("marker-kept", { cx: x(number), cy: y(kept ?? 0), visibility: kept === null ? "hidden" : "visible" });
}

// ------------------------------------------------------------------------------------------------------------ its use

// A leading word of the text was chosen: strike it out alone, or put it back.
function take(block, n) {
  const leading = block.leading?.[n];
  if (leading !== undefined && check) $("leading").children[leading].click();
}

$("show-leading").addEventListener("click", () => go({ method: "0", row: "0" }));
const withCheck = reviews.filter((review) => review.check).length;
$("num-measured").textContent = `${withCheck} of ${plural(reviews.length, "review")}`;

function show(shown) {
  showLegend(shown);
  showSums(shown);
  showStrongest(shown);
  showCheck(shown);
}
return { show, take };
};
