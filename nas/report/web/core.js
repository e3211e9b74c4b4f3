"use strict";
// What all parts of the page share: its data and state, elements, numbers, colours, copying.

// shown: the trial that is drawn beside the front; pins: numbers of pinned trials, in order; triple: the α, β, γ
// whose network is drawn beside the grid.
const page = { data: {}, trials: [], byNumber: new Map(), pins: [], shown: null, triple: null, cost: null };

const $ = (id) => document.getElementById(id);

/** Make an element; texts are set as texts, so nothing of a file is ever read as HTML. */
function el(tag, properties = {}, ...children) {
  const svg = ["svg", "rect", "text", "g", "title"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const fill = (place, ...children) => (typeof place === "string" ? $(place) : place).replaceChildren(...children);

/** A text of a file for Plotly, which reads some tags in its labels, and %{…} in its hints. */
const plain = (text) => String(text).replace(/[&<>%]/g, (sign) => `&#${sign.charCodeAt(0)};`);

const known = (value) => value !== null && value !== undefined;

/** A count with a unit, as the commands print it: 385814752 -> 385.8M. */
function count(value, digits = 4) {
  if (!known(value)) return "–";
  for (const [unit, size] of [
    ["T", 1e12],
    ["G", 1e9],
    ["M", 1e6],
    ["K", 1e3],
  ])
    if (Math.abs(value) >= size) return Number((value / size).toPrecision(digits)) + unit;
  return String(Number(value.toPrecision(digits)));
}

const percent = (share, digits = 1) => (known(share) ? `${(100 * share).toFixed(digits)} %` : "–");

const seconds = (value) =>
  !known(value) ? "–" : value < 1 ? `${Number((1000 * value).toPrecision(3))} ms` : `${Number(value.toPrecision(3))} s`;

const isTime = (key) => ["latency", "latency_measured", "step_seconds"].includes(key);

/** A cost as people read it. */
const amount = (key, value) => (isTime(key) ? seconds(value) : count(value));

const epochsText = (number) => `${number} ${number === 1 ? "epoch" : "epochs"}`;

/** The column of the metric by which networks are ranked: accuracy, or balanced_accuracy. */
const metric = () => page.data.metric.key;
const metricName = () => page.data.metric.name;

/** What a trial is judged by: the metric's mean over its trainings. */
const score = (trial) => trial[`mean_${metric()}`];

/** The same in words, with what it rests on. */
function scoreText(trial) {
  if (!known(score(trial))) return `no ${metricName()}`;
  const spread = known(trial.mean_error) ? ` ± ${(100 * trial.mean_error).toFixed(1)}` : "";
  return (
    `${(100 * score(trial)).toFixed(1)}${spread} %` + (trial.runs > 1 ? `, mean of ${trial.runs}` : ", one training")
  );
}

/** The trials, from columns to one object each. */
function trialsOf(columns) {
  const keys = Object.keys(columns);
  return columns.trial.map((_, i) => Object.fromEntries(keys.map((key) => [key, columns[key][i]])));
}

/** A network from the few numbers it is written in. */
function networkOf(number) {
  const { words, sides, stages, networks } = page.data.drawings;
  const [written, side, shares] = networks[number];
  const texts = written.map((word) => words[word]);
  const setting = (name) => Number((texts.find((text) => text.startsWith(name)) || "0").match(/\d+/)[0]);
  const middle = texts.filter((text) => stages[text]);
  const parts = [
    { name: "stem", op: "end", repeats: 1, kernel: 3, channels: setting("stem") },
    ...middle.map((text) => {
      const [op, repeats, kernel, , expansion, channels, se] = stages[text];
      return { name: text, op, repeats, kernel, expansion, channels, se };
    }),
    { name: "head", op: "end", repeats: 1, kernel: 1, channels: setting("head") },
  ];
  parts.forEach((part, i) => Object.assign(part, { side: sides[side][i], share: shares[i] }));
  return { text: texts.join(" "), short: middle.join(" "), pixels: Number.parseInt(texts[0], 10), parts };
}

/** A colour of the style sheet as the theme has it now; with a share of opacity if given. */
function colour(name, opacity = 1) {
  document.body.style.setProperty("outline-color", `var(--${name})`);
  const found = getComputedStyle(document.body).outlineColor;
  return opacity < 1 ? found.replace(/^rgb\(([^)]*)\)$/, `rgba($1, ${opacity})`) : found;
}

/** Say something for a moment. */
function tell(text) {
  fill("told", text);
  $("told").classList.add("on");
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => $("told").classList.remove("on"), 1600);
}

/** Put a text on the clipboard; a page opened from a file may have only the older way. */
async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const box = el("textarea", { class: "hidden", "aria-hidden": "true" });
    box.value = text;
    const before = document.activeElement;
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
    if (before) before.focus({ preventScroll: true });
  }
  tell(`Copied ${what}`);
}

const copyButton = (text, what, small = true) =>
  el(
    "button",
    {
      type: "button",
      class: small ? "quiet small" : "quiet",
      "aria-label": `Copy ${what}`,
      onclick: (event) => {
        event.stopPropagation();
        copy(text, what);
      },
    },
    "copy",
  );

/** Pin a network or unpin it; everything that shows pins is drawn anew. */
function togglePin(number) {
  page.pins = page.pins.includes(number) ? page.pins.filter((pin) => pin !== number) : [...page.pins, number];
  tell(page.pins.includes(number) ? `Pinned trial ${number}` : `Unpinned trial ${number}`);
  drawPins();
}

/** The letter of a pinned network, "" if it is not. */
function letter(number) {
  const place = page.pins.indexOf(number);
  return place < 0 ? "" : place < 26 ? String.fromCharCode(65 + place) : String(place + 1);
}

function pinButton(trial, attributes = {}) {
  const pinned = page.pins.includes(trial.trial);
  return el(
    "button",
    {
      type: "button",
      class: "pin",
      "aria-pressed": String(pinned),
      "aria-label": `${pinned ? "Unpin" : "Pin"} trial ${trial.trial}`,
      ...attributes,
      onclick: (event) => {
        event.stopPropagation();
        togglePin(trial.trial);
      },
    },
    letter(trial.trial),
  );
}
