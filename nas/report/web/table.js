"use strict";
// All networks as a table in pages: sorted, filtered, with the keyboard.

const ROWS = 50; // a page
const table = { sort: "trial", falling: false, start: 0 };

function columnsOf() {
  const { costs } = page.data;
  return [
    { key: "trial", title: "trial", get: (t) => t.trial, show: (t) => [String(t.trial), ...tags(t)] },
    {
      key: "accuracy",
      title: metricName(),
      falls: true,
      get: score,
      show: (t) => [
        known(score(t))
          ? percent(score(t)) +
            (known(t.mean_error) && t.state === "COMPLETE" ? ` ± ${(100 * t.mean_error).toFixed(1)}` : "")
          : "–",
      ],
    },
    ...costs
      .filter((cost) => cost.main)
      .map((cost) => ({
        key: cost.key,
        title: cost.short,
        get: (t) => t[cost.key],
        show: (t) => [amount(cost.key, t[cost.key])],
      })),
    {
      key: "runs",
      title: "trainings",
      falls: true,
      get: (t) => t.runs,
      show: (t) => [known(t.runs) ? String(t.runs) : "–"],
    },
    {
      key: "epochs",
      title: "epochs",
      falls: true,
      get: (t) => t.epochs,
      show: (t) => [known(t.epochs) ? String(t.epochs) : "–"],
    },
  ];
}

/** What a trial's row can be found by. */
const searchText = (trial) =>
  (trial.found ??=
    [
      trial.trial,
      networkOf(trial.network).text,
      trial.hash,
      trial.note,
      trial.baseline ? "baseline" : "",
      trial.front ? "front" : "",
      trial.state === "FAIL" ? "failed" : "",
    ]
      .join(" ")
      .toLowerCase()
      .replace(/_/g, " ") + " ");

/** Whether a row has all words of a filter; a number alone is a trial's, or a whole word. */
function matches(trial, words) {
  const text = searchText(trial);
  return words.every((word) => (/^\d+$/.test(word) ? ` ${text}`.includes(` ${word} `) : text.includes(word)));
}

function filtered() {
  const words = $("filter").value.toLowerCase().replace(/_/g, " ").split(/\s+/).filter(Boolean);
  const [front, pinned] = [$("only-front").checked, $("only-pinned").checked];
  const column = columnsOf().find((one) => one.key === table.sort) || columnsOf()[0];
  const side = table.falling ? -1 : 1;
  return page.trials
    .filter(
      (t) => (!front || t.front) && (!pinned || page.pins.includes(t.trial)) && (!words.length || matches(t, words)),
    )
    .map((trial) => [trial, column.get(trial)])
    .sort(([a, x], [b, y]) => !known(x) - !known(y) || (known(x) && side * (x - y)) || a.trial - b.trial)
    .map(([trial]) => trial);
}

function drawTable() {
  const rows = filtered();
  table.start = Math.min(table.start, Math.max(0, Math.floor((rows.length - 1) / ROWS) * ROWS));
  const shown = rows.slice(table.start, table.start + ROWS);
  const columns = columnsOf();
  const node = $("table");
  const held = node.contains(document.activeElement)
    ? document.activeElement.closest("[data-key], [data-trial]")
    : null;
  const [key, number] = [held?.dataset.key, held?.dataset.trial];
  fill(
    node.tHead,
    el(
      "tr",
      {},
      el("th", { scope: "col" }, el("span", { class: "hidden" }, "pin")),
      ...columns.map((column) =>
        el(
          "th",
          {
            scope: "col",
            class: column.key === "trial" ? null : "number",
            "aria-sort": column.key === table.sort ? (table.falling ? "descending" : "ascending") : null,
          },
          el(
            "button",
            { type: "button", "data-key": column.key, onclick: () => sortBy(column) },
            `${column.title}${column.key === table.sort ? (table.falling ? " ↓" : " ↑") : ""}`,
          ),
        ),
      ),
      el("th", { scope: "col" }, "block strings"),
    ),
  );
  fill(node.tBodies[0], ...shown.map((trial, i) => tableRow(trial, columns, i)));
  const all = page.trials.length;
  fill("count", rows.length === all ? `${all} trials` : `${rows.length} of ${all} trials`);
  const last = Math.max(1, Math.ceil(rows.length / ROWS));
  const turn = (text, start, off) =>
    el("button", { type: "button", class: "quiet", disabled: off, onclick: () => turnTo(start) }, text);
  fill(
    "pages",
    ...(last > 1
      ? [
          turn("‹ earlier", table.start - ROWS, table.start === 0),
          el("span", {}, `page ${table.start / ROWS + 1} of ${last}`),
          turn("later ›", table.start + ROWS, table.start + ROWS >= rows.length),
        ]
      : []),
  );
  if (key) node.querySelector(`button[data-key="${key}"]`)?.focus({ preventScroll: true });
  if (number) focusRow(node.querySelector(`tr[data-trial="${number}"]`), true);
}

function tableRow(trial, columns, i) {
  const network = networkOf(trial.network);
  return el(
    "tr",
    {
      tabindex: i ? -1 : 0,
      "data-trial": trial.trial,
      "aria-selected": String(page.pins.includes(trial.trial)),
      title: trial.note || null,
      onclick: () => togglePin(trial.trial),
      onmouseenter: () => show(trial.trial),
      onfocus: () => show(trial.trial),
    },
    el("td", {}, pinButton(trial, { tabindex: -1 })),
    ...columns.map((column) => el("td", { class: column.key === "trial" ? null : "number" }, ...column.show(trial))),
    el(
      "td",
      { class: "blocks" },
      el(
        "div",
        {},
        drawMini(network),
        copyButton(network.text, `the block strings of trial ${trial.trial}`),
        el("code", { title: network.text }, network.short),
      ),
    ),
  );
}

function sortBy(column) {
  table.falling = table.sort === column.key ? !table.falling : Boolean(column.falls);
  Object.assign(table, { sort: column.key, start: 0 });
  drawTable();
}

function turnTo(start) {
  table.start = Math.max(0, start);
  drawTable();
}

function focusRow(row, still = false) {
  if (!row) return;
  for (const other of row.parentNode.children) other.tabIndex = other === row ? 0 : -1;
  row.focus({ preventScroll: still });
}

function bootTable() {
  for (const [id, event] of [
    ["filter", "input"],
    ["only-front", "change"],
    ["only-pinned", "change"],
  ])
    $(id).addEventListener(event, () => turnTo(0));
  $("table").addEventListener("keydown", (event) => {
    const row = event.target;
    if (!(row instanceof HTMLTableRowElement) || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = [...row.parentNode.children];
    const step = { ArrowDown: 1, ArrowUp: -1, Home: -1e9, End: 1e9 }[event.key];
    const number = Number(row.dataset.trial);
    if (step) rove(rows, row, step);
    else if (event.key === "PageDown" || event.key === "PageUp") {
      turnTo(table.start + (event.key === "PageDown" ? ROWS : -ROWS));
      focusRow($("table").tBodies[0].firstElementChild);
    } else if (event.key === "Enter" || event.key === " ") togglePin(number);
    else if (event.key === "c")
      copy(networkOf(page.byNumber.get(number).network).text, `the block strings of trial ${number}`);
    else return;
    event.preventDefault();
  });
}
