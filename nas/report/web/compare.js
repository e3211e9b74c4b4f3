"use strict";
// Pinned networks side by side: what they cost, and where they differ from the first.

/** The facts compared, [name, value as text, number, whether less is better (null: neither)]. */
function compared() {
  return [
    [metricName(), scoreText, (t) => score(t), false],
    ["P(non-dominated)", (t) => (known(t.probability) ? t.probability.toFixed(2) : "–"), () => null, null],
    ...page.data.costs.map((cost) => [cost.short, (t) => amount(cost.key, t[cost.key]), (t) => t[cost.key], true]),
  ];
}

function drawCompare() {
  const trials = page.pins.map((pin) => page.byNumber.get(pin)).filter(Boolean);
  $("compare").hidden = !page.trials.length;
  $("compare-table").hidden = !trials.length;
  $("unpin").hidden = !trials.length;
  fill(
    "compare-hint",
    trials.length > 1
      ? "Marked: what differs from A."
      : trials.length
        ? "Pin a second network to compare: click a point above, or press Enter on a row of the table."
        : "Click a point above, or press Enter on a row of the table, to pin a network here.",
  );
  if (!trials.length) return fill("compare-table");
  const networks = trials.map((trial) => networkOf(trial.network));
  const scale = Math.max(...networks.map(extent));
  const row = (name, cells) => el("tr", {}, el("th", { scope: "row" }, name), ...cells);
  const facts = compared().map(([name, text, number, less]) => {
    const values = trials.map(number);
    const best =
      less === null || trials.length < 2 || !values.every(known) || new Set(values).size < 2
        ? null
        : values.reduce((a, b) => (less ? Math.min(a, b) : Math.max(a, b)));
    return row(
      name,
      trials.map((trial, i) => el("td", { class: known(best) && values[i] === best ? "best" : null }, text(trial))),
    );
  });
  const stages = Math.max(...networks.map((network) => network.parts.length - 2));
  const strings = Array.from({ length: stages }, (_, i) =>
    row(
      `stage ${i + 1}`,
      networks.map((network) => el("td", {}, el("code", {}, ...marked(stage(network, i), stage(networks[0], i))))),
    ),
  );
  const settings = ["stem", "head"]
    .map((name, i) => [name, networks.map((n) => n.parts[i ? n.parts.length - 1 : 0].channels)])
    .filter(([, values]) => new Set(values).size > 1)
    .map(([name, values]) =>
      row(
        name,
        values.map((value) => el("td", {}, String(value))),
      ),
    );
  fill(
    "compare-table",
    el(
      "table",
      { class: "pairs" },
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("td", {}),
          ...trials.map((trial, i) =>
            el(
              "th",
              { scope: "col" },
              el(
                "div",
                { class: "heading" },
                el("span", {}, `${letter(trial.trial)} · trial ${trial.trial}`, ...tags(trial)),
                pinButton(trial),
              ),
              drawNetwork(networks[i], scale, i ? networks[0] : null),
            ),
          ),
        ),
      ),
      el(
        "tbody",
        {},
        ...facts,
        ...settings,
        ...strings,
        row(
          "",
          networks.map((network, i) =>
            el("td", {}, copyButton(network.text, `the block strings of ${letter(trials[i].trial)}`)),
          ),
        ),
      ),
    ),
  );
}

const stage = (network, i) => (i < network.parts.length - 2 ? network.parts[i + 1].name : "");

/** A block string, with the words marked that another has not. */
function marked(text, other) {
  const words = new Set(other.split("_"));
  return text.split("_").flatMap((word, i) => [i ? "_" : "", words.has(word) ? word : el("mark", {}, word)]);
}

function tags(trial) {
  const name = trial.baseline ? "baseline" : trial.front ? "front" : trial.state === "FAIL" ? "failed" : "";
  const kind = trial.baseline ? "baseline" : trial.front ? "front" : trial.state;
  return name ? [el("span", { class: `tag ${kind}` }, name)] : [];
}
