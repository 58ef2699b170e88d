// How a task is named and how its outcome looks, wherever it is shown.

import { element, setText } from "./dom.js";
import { withTask } from "./route.js";
import { at, KINDS, refText, WAITING } from "./text.js";

const WHOLE_HOST = 26; // characters of a name that stays in one piece

export const taskLink = () => element("a", { class: "id" });

export function fillTaskLink(node, task) {
  setText(node, task.task_id);
  const href = withTask({ task_id: task.task_id, account: task.account });
  if (node.getAttribute("href") !== href) node.setAttribute("href", href);
}

export const makeOutcome = () => element("span", { class: "outcome" }, element("span", { class: "swatch", "aria-hidden": "true" }), element("span"));

export function fillOutcome(node, task) {
  node.children[0].className = `swatch kind-${task.kind ?? "waiting"}`;
  setText(node.children[1], task.kind ? KINDS[task.kind] ?? task.kind : WAITING[task.state]);
}

export const makeFile = () => element("span");

// Where the file is on its host, which has a column of its own. Long paths and names of hosts break at the ends of their
// pieces.
export function fillFile(node, task) {
  const path = task.host ? task.url.trim().replace(/^[a-z]+:\/\/[^/?#]*/i, "") : "";
  node.title = task.url ?? "";
  fillPieces(node, path || (task.url ?? refText(task.ref)), /(?<=[/?&])(?![/?&])/);
}

export function fillHost(node, host) {
  const text = host ?? "";
  fillPieces(node, text, text.length > WHOLE_HOST ? /(?<=\.)/ : "\n"); // no name of a host has a line break
}

function fillPieces(node, text, end) {
  if (node.textContent === text) return;
  node.replaceChildren(...text.split(end).flatMap((piece) => [piece, element("wbr")]));
}

export const landedText = (task) => (task.landed === true ? "yes" : task.landed === false ? "no" : "");

// When it is polled or started next. What is due waits for the account's limit: rows wait from their feeding on.
export function nextText(task, now) {
  const due = Date.parse(task.due_at) / 1000;
  return due <= now ? "in its turn" : at(due, now, { seconds: true });
}
