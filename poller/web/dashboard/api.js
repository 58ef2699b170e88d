// Requests of the page to its own server, with the token where one is needed.

const TOKEN_KEY = "poller-token";
const LONGEST_ERROR = 300; // characters

let kept = null; // the token, where the browser lets no page store anything

export function token() {
  try {
    return sessionStorage.getItem(TOKEN_KEY) ?? kept;
  } catch {
    return kept;
  }
}

export function keepToken(text) {
  kept = text;
  try {
    if (text === null) sessionStorage.removeItem(TOKEN_KEY);
    else sessionStorage.setItem(TOKEN_KEY, text);
  } catch {
    // the person enters it again after the page is loaded again
  }
}

export function authorization() {
  return token() ? { Authorization: `Bearer ${token()}` } : {};
}

// Return the response. Throws an `Error` whose message is for a person.
async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options, headers: { ...authorization(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer.");
  }
  if (response.ok) return response;
  const text = await response.text();
  let message = `The server answered ${response.status}.`;
  try {
    message = JSON.parse(text).message ?? message;
  } catch {
    // an answer of something between, such as a proxy
  }
  throw new Error(message.slice(0, LONGEST_ERROR));
}

export async function getJson(path, signal) {
  return (await request(path, { signal })).json();
}

export async function post(path, body) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const response = await request(path, { method: "POST", headers, body: body === undefined ? undefined : JSON.stringify(body) });
  return response.status === 204 ? null : response.json();
}

// Save what the path answers as a file. Not by a link: a link cannot send a token, and would save a refusal as the file.
export async function download(path, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await (await request(path)).blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
