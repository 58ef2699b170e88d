// Numbers, durations and instants as text for people. No DOM.

const whole = new Intl.NumberFormat("en-US");
const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const clockSeconds = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });

export const count = (n) => whole.format(n);

export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

export function share(part, all) {
  if (!all) return "0 %";
  const percent = (100 * part) / all;
  if (part === all) return "100 %";
  if (percent >= 99.9) return "99.9 %"; // 100 only when it is all
  return percent > 0 && percent < 0.1 ? "under 0.1 %" : `${percent.toFixed(1)} %`;
}

export function rate(perSecond) {
  if (perSecond >= 100) return count(Math.round(perSecond));
  return perSecond >= 10 || perSecond === 0 ? perSecond.toFixed(perSecond ? 1 : 0) : perSecond.toFixed(2);
}

export function duration(seconds) {
  if (seconds < 1) return "under 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) {
    const minutes = Math.round(seconds / 60);
    const hours = Math.floor(minutes / 60);
    return hours < 10 && minutes % 60 ? `${hours} h ${minutes % 60} min` : `${Math.round(minutes / 60)} h`;
  }
  return `${Math.round(seconds / 86_400)} days`;
}

// After "under" or "within".
export const atMost = (seconds) => (seconds < 1 ? "1 s" : duration(seconds));

// A bound of the histogram: exact, short.
export function bound(seconds) {
  if (seconds < 60) return `${seconds} s`;
  return seconds < 3600 ? `${seconds / 60} min` : `${seconds / 3600} h`;
}

const sameDay = (a, b) => new Date(a * 1000).toDateString() === new Date(b * 1000).toDateString();

const DAY_S = 86_400;

// An instant, with its day where that is not today.
export function at(instant, now, { seconds = false } = {}) {
  const date = new Date(instant * 1000);
  const time = (seconds ? clockSeconds : clock).format(date);
  if (sameDay(instant, now)) return time;
  if (sameDay(instant, now + DAY_S)) return `tomorrow, ${time}`;
  return `${day.format(date)}, ${time}`;
}

// From one instant to another; the day appears once.
export const span = (from, to, now) => `${at(from, now)} to ${sameDay(from, to) ? time(to) : at(to, now)}`;

export const time = (instant) => clock.format(new Date(instant * 1000));

const dayAndTime = new Intl.DateTimeFormat(undefined, { weekday: "short", hour: "numeric", minute: "2-digit" });

export const dayTime = (instant) => dayAndTime.format(new Date(instant * 1000));

// What the person fed with an id, for one line: "url: …   name: x".
export function refText(fields) {
  if (fields === null || fields === undefined) return "";
  if (typeof fields !== "object" || Array.isArray(fields)) return String(fields);
  return Object.entries(fields)
    .map(([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join("   ");
}

// What `refText` returns, of the JSON text, which may be truncated.
export function ref(json) {
  try {
    return refText(JSON.parse(json || "null"));
  } catch {
    return String(json);
  }
}

export const KINDS = {
  complete: "complete",
  complete_with_errors: "complete, with errors",
  complete_without_result: "complete, without result",
  canceled: "canceled",
  not_found: "not found",
  timed_out: "timed out",
  not_started: "not started",
  start_unknown: "start unknown",
};
export const KINDS_OF_IMPORTS = ["not_started", "start_unknown"];

// Of a task without an outcome.
export const WAITING = { waiting: "waiting", unstarted: "not started yet", unsure: "start without an answer" };

export const BY_PERSON = "paused_by_person"; // the pause that the page begins and ends

export const STATES = {
  running: ["running", "good"],
  idle: ["waiting for input", "quiet"],
  paused: ["paused", "warn"],
  stuck: ["needs you", "bad"],
  stopped: ["stopped", "warn"],
  draining: ["stopping", "warn"],
  finished: ["finished", "good"],
};
