// What a person can change from the page: an account's pause, and dead letters. A server for reading only refuses all of it.

import { post } from "./api.js";
import { $, setData, setText } from "./dom.js";
import { plural } from "./text.js";

const SHOWN_MS = 8000;

let hiding = 0;

// Show for some seconds what came of an action.
export function toast(text, tone = "good") {
  setText($("toast"), text);
  setData($("toast"), "tone", tone);
  $("toast").hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { $("toast").hidden = true; }, SHOWN_MS);
}

// Run an action of a button, which is off meanwhile; show its message or its failure. Return whether it was done.
export async function act(button, action) {
  button.disabled = true;
  try {
    toast(await action());
    return true;
  } catch (error) {
    toast(error.message, "bad");
    return false;
  } finally {
    button.disabled = false;
  }
}

export async function pauseAccount(name) {
  await post(`/v1/accounts/${encodeURIComponent(name)}/pause`);
  return `Account ${name} is paused: it sends no more requests until you resume it.`;
}

export async function resumeAccount(name) {
  await post(`/v1/accounts/${encodeURIComponent(name)}/resume`);
  return `Account ${name} is resumed.`;
}

// Put dead letters of a sink back into its outbox: those of these tasks, or all.
export async function retryDeadLetters(sink, taskIds) {
  const answer = await post("/v1/dead-letters/retry", taskIds ? { sink, task_ids: taskIds } : { sink });
  return `${plural(answer.retried ?? 0, "record")} of ${sink} will be delivered again.`;
}
