"use strict";
// A network as a picture: a row of blocks a stage; width by channels, count by repeats, height by resolution.

const BLOCKS = { left: 55, width: 119, gap: 1.5, right: 166 };

const rowHeight = (side) => 12 + 2.3 * Math.log2(Math.max(1, side));

/** How wide the widest row of a network is, in square roots of channels: drawings side by side share one scale. */
function extent(network) {
  return Math.max(...network.parts.map((part) => part.repeats * Math.sqrt(part.channels)));
}

function blocksText(part) {
  if (part.name === "stem" || part.name === "head") return `${part.name} · ${part.channels}`;
  const words = [`k${part.kernel}`];
  if (part.expansion !== 1) words.push(`e${part.expansion}`);
  if (part.se) words.push(`SE ${part.se}`);
  return `${words.join(" ")} · ${part.channels}`;
}

/** One network, stage by stage. scale: the extent that fills the width; other: a network that it is held against. */
function drawNetwork(network, scale = extent(network), other = null) {
  const rows = [];
  const widest = Math.max(...network.parts.map((part) => part.repeats));
  const unit = (BLOCKS.width - BLOCKS.gap * widest) / scale;
  const end = BLOCKS.left + BLOCKS.width + BLOCKS.right;
  let y = 2;
  network.parts.forEach((part, i) => {
    const height = rowHeight(part.side);
    const middle = y + height / 2 + 3.6;
    const width = Math.max(1.5, unit * Math.sqrt(part.channels));
    const differs = other && other.parts[i] && part.op !== "end" && other.parts[i].name !== part.name;
    if (differs) rows.push(el("rect", { class: "differs", x: 0, y: y + 1.5, width: 4, height: height - 3, rx: 2 }));
    rows.push(el("text", { x: BLOCKS.left - 8, y: middle, "text-anchor": "end" }, `${part.side} px`));
    for (let block = 0; block < part.repeats; block++)
      rows.push(
        el("rect", {
          class: `op-${part.op}`,
          x: BLOCKS.left + block * (width + BLOCKS.gap),
          y: y + 1.5,
          width,
          height: height - 3,
          rx: Math.min(2.5, width / 3),
        }),
      );
    rows.push(el("text", { class: "name", x: BLOCKS.left + BLOCKS.width + 10, y: middle }, blocksText(part)));
    rows.push(el("text", { x: end - 2, y: middle, "text-anchor": "end" }, `${part.share} %`));
    y += height;
  });
  const said =
    `${network.pixels} pixels; ` +
    network.parts.map((part) => `${part.name}, ${part.side} pixels, ${part.share} % of MAdds`).join("; ");
  return el("svg", { class: "network", viewBox: `0 0 ${end} ${y + 2}`, role: "img", "aria-label": said }, ...rows);
}

/** The same in one line, for the rows of a table. */
function drawMini(network) {
  const blocks = [];
  let x = 0;
  for (const part of network.parts.slice(1, -1)) {
    const height = 3 + 2 * Math.log2(Math.max(1, part.side));
    const width = Math.max(1.5, Math.sqrt(part.channels) / 3);
    for (let block = 0; block < part.repeats; block++) {
      blocks.push(el("rect", { class: `op-${part.op}`, x, y: 20 - height, width, height, rx: 0.6 }));
      x += width + 0.8;
    }
    x += 2.5;
  }
  const shown = Math.min(150, Math.max(60, x));
  return el(
    "svg",
    { class: "mini", width: shown, height: 20, viewBox: `0 0 ${Math.max(60, x)} 20`, "aria-hidden": "true" },
    ...blocks,
  );
}

function drawLegend() {
  const used = new Set(Object.values(page.data.drawings.stages).map((stage) => stage[0]));
  return el(
    "div",
    { class: "legend" },
    ...Object.entries(page.data.ops)
      .filter(([op]) => used.has(op))
      .map(([op, title]) => el("span", {}, el("i", { class: `op-${op}` }), title)),
    el("span", {}, "blocks: width √channels, height resolution · right: share of MAdds"),
  );
}

/** A card's content: title, what is known of the trial, the drawing, and what can be done with it. */
function drawTrial(place, trial, title, tasks = true) {
  if (!trial) return fill(place, el("p", { class: "note" }, "No network is trained yet."));
  const network = networkOf(trial.network);
  const costs = page.data.costs
    .filter((cost) => cost.main && known(trial[cost.key]))
    .map((cost) => `${amount(cost.key, trial[cost.key])} ${cost.short}`);
  const sure = known(trial.probability) ? ` · non-dominated with probability ${trial.probability.toFixed(2)}` : "";
  const curve = (trial.curve || []).map((value) => (100 * value).toFixed(1)).join(" → ");
  const pinned = page.pins.includes(trial.trial);
  fill(
    place,
    el("header", {}, el("h3", {}, title), tasks ? pinButton(trial) : null),
    tasks
      ? el(
          "p",
          { class: "said" },
          trial.state === "FAIL" ? `failed: ${trial.note || "unknown cause"}` : scoreText(trial),
          ` · ${costs.join(" · ")}${sure}`,
        )
      : "",
    drawNetwork(network),
    drawLegend(),
    ...(curve && tasks ? [el("p", { class: "note" }, `first training, ${metricName()} by epoch: ${curve} %`)] : []),
    ...(tasks
      ? [
          el(
            "div",
            { class: "tasks" },
            el(
              "button",
              {
                type: "button",
                class: "quiet small",
                "aria-pressed": String(pinned),
                onclick: () => togglePin(trial.trial),
              },
              pinned ? "unpin" : "pin to compare",
            ),
            copyButton(network.text, "its block strings"),
          ),
        ]
      : []),
  );
}
