// The table of dead letters: what each sink refused for good and why, with its retry.

import { act, retryDeadLetters } from "./actions.js";
import { getJson } from "./api.js";
import { $, element, setText, table, update } from "./dom.js";
import { current } from "./route.js";
import { fillTaskLink, taskLink } from "./task-cells.js";
import { at, count, plural } from "./text.js";

let letters = []; // the oldest ones
let total = 0;
let latest = null; // overview
let changes = null; // the sums when the letters came

const sums = () => JSON.stringify(latest?.ledger.sinks.map((sink) => [sink.name, sink.dead]));

async function load() {
  changes = sums();
  try {
    ({ dead_letters: letters, total } = await getJson("/v1/dead-letters"));
    show();
  } catch (error) {
    changes = null;
    setText($("dead-now"), error.message);
  }
}

function show() {
  const isReadOnly = latest?.is_read_only ?? true;
  const now = latest?.now ?? Date.now() / 1000;
  setText($("dead-now"), total ? plural(total, "record") + (total > letters.length ? `, the oldest ${count(letters.length)} below` : "") : "");
  $("dead-empty").hidden = letters.length > 0;
  $("dead-table").hidden = !letters.length;
  const sinks = [...new Set(letters.map((each) => each.sink))];
  update($("dead-sinks"), isReadOnly ? [] : sinks, {
    key: (sink) => sink,
    make: (sink) => retryButton(() => [sink]),
    fill: (node, sink) => setText(node, `Retry all of ${sink}`),
  });
  const columns = [
    { name: "task", text: true, make: taskLink, fill: fillTaskLink },
    { name: "sink", text: true, cell: (each) => each.sink },
    { name: "reason", text: true, cell: (each) => each.reason },
    { name: "refused", text: true, cell: (each) => at(Date.parse(each.refused_at) / 1000, now, { seconds: true }) },
    { name: "retry", text: true, make: () => retryButton((row) => [row.sink, [row.task_id]]), fill: fillRetry },
  ];
  table($("dead-table"), "Dead letters", columns, letters.map((each) => ({ ...each, key: `${each.sink} ${each.account} ${each.task_id}` })));
}

function retryButton(whatOf) {
  const button = element("button", { type: "button", class: "quiet" }, "Retry");
  button.addEventListener("click", async () => {
    const what = button.row ? whatOf(button.row) : whatOf();
    if (await act(button, () => retryDeadLetters(...what))) load();
  });
  return button;
}

function fillRetry(button, row) {
  button.row = row;
  button.hidden = latest?.is_read_only ?? true;
  const name = `Retry ${row.task_id} for ${row.sink}`;
  if (button.getAttribute("aria-label") !== name) button.setAttribute("aria-label", name);
}

export function showDeadLetters({ view }) {
  if (view === "dead-letters") load();
}

export function refreshDeadLetters(overview) {
  latest = overview;
  const dead = overview.ledger.sinks.reduce((sum, sink) => sum + sink.dead, 0);
  $("dead-count").hidden = !dead;
  setText($("dead-count"), count(dead));
  if (current().view === "dead-letters" && sums() !== changes) load();
}
