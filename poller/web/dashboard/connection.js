// Keeps one stream of overviews open while the page is visible, and asks for the token where one is needed.

import { authorization, keepToken, token } from "./api.js";
import { $, setText } from "./dom.js";

const STREAM = "/v1/overview/stream";
const SILENT_S = 10; // events come every two seconds
const RETRY_S = [1, 2, 4, 8, 15];
const RETRY_AFTER_END_S = 30; // the next run may use the same address

// Read server-sent events until the stream ends; return why it ended. Each arrival restarts the timer of silence.
async function readStream(controller, received) {
  let isSilent = false;
  const giveUp = () => {
    isSilent = true;
    controller.abort();
  };
  let timer = setTimeout(giveUp, SILENT_S * 1000);
  try {
    const response = await fetch(STREAM, { headers: authorization(), cache: "no-store", signal: controller.signal });
    if (response.status === 401) return "token";
    if (!response.ok) return `the server answered ${response.status}`;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let pending = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return "the server closed the connection";
      clearTimeout(timer);
      timer = setTimeout(giveUp, SILENT_S * 1000);
      const events = (pending + value).split("\n\n");
      pending = events.pop();
      for (const event of events) {
        const name = /^event: (.*)$/m.exec(event)?.[1] ?? "";
        const data = /^data: (.*)$/m.exec(event)?.[1];
        if (data) received(JSON.parse(data), name === "end");
      }
    }
  } catch {
    return isSilent ? "the server is silent" : "the server does not answer";
  } finally {
    clearTimeout(timer);
  }
}

function askForToken() {
  const wasRefused = token() !== null;
  keepToken(null);
  if (wasRefused) setText($("ask-why"), "The server refused that token. Enter another:");
  return new Promise((resolve) => {
    $("ask-form").onsubmit = () => {
      keepToken($("token").value.trim());
      $("token").value = "";
      resolve();
    };
    $("ask").oncancel = (event) => event.preventDefault();
    if (!$("ask").open) $("ask").showModal();
  });
}

// Wait this long, or until the page becomes visible or the browser is online again.
function rest(seconds) {
  return new Promise((resolve) => {
    const listening = new AbortController();
    const wake = () => { clearTimeout(timer); listening.abort(); resolve(); };
    const timer = setTimeout(wake, seconds * 1000);
    window.addEventListener("online", wake, listening);
    document.addEventListener("visibilitychange", wake, listening);
  });
}

const visible = () => new Promise((resolve) => {
  if (!document.hidden) return resolve();
  const check = () => {
    if (document.hidden) return;
    document.removeEventListener("visibilitychange", check);
    resolve();
  };
  document.addEventListener("visibilitychange", check);
});

// Never returns. `received(overview, isLast)` takes each overview; `hidden()`, `refused()` and `lost(why)` the rest.
export async function connect({ received, hidden, refused, lost }) {
  let failures = 0;
  let isEnded = false;
  for (;;) {
    await visible();
    let count = 0;
    const controller = new AbortController();
    const pause = () => { if (document.hidden) controller.abort(); };
    document.addEventListener("visibilitychange", pause);
    const why = await readStream(controller, (overview, isLast) => {
      count += 1;
      isEnded = isLast;
      received(overview, isLast);
    });
    document.removeEventListener("visibilitychange", pause);
    if (document.hidden) {
      hidden();
    } else if (why === "token") {
      refused();
      await askForToken();
    } else {
      failures = count ? 0 : failures + 1;
      if (!isEnded) lost(why);
      await rest(isEnded ? RETRY_AFTER_END_S : RETRY_S[Math.min(failures, RETRY_S.length - 1)]);
    }
  }
}
