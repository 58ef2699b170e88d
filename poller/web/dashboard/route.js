// What is shown is in the address, so that it can be linked and the back button works: #/tasks?landed=false&host=a.example

export const FILTERS = ["state", "kind", "landed", "reason", "account", "host", "q", "since"]; // as the server names them
const TASK = "task"; // the task whose drawer is open
const OF = "of"; // its account
const VIEWS = ["overview", "tasks", "dead-letters"];

export function current() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const all = new URLSearchParams(query);
  const filters = new URLSearchParams([...all].filter(([name]) => FILTERS.includes(name)));
  const task = all.get(TASK);
  return { view: VIEWS.includes(path) ? path : "overview", filters, task: task && { task_id: task, account: all.get(OF) } };
}

export function hashOf(view, filters = new URLSearchParams(), task = null) {
  const all = new URLSearchParams(filters);
  if (task) {
    all.set(TASK, task.task_id);
    if (task.account) all.set(OF, task.account);
  }
  const query = all.toString();
  return `#/${view === "overview" ? "" : view}${query ? `?${query}` : ""}`;
}

export const tasksWhere = (filters) => hashOf("tasks", new URLSearchParams(filters));

// Open or close a task's drawer over what is shown now.
export function withTask(task) {
  const { view, filters } = current();
  return hashOf(view, filters, task);
}

export function go(hash, { replace = false } = {}) {
  if (hash === location.hash) return;
  if (!replace) {
    location.hash = hash;
    return;
  }
  history.replaceState(null, "", hash);
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}

export const onChange = (show) => window.addEventListener("hashchange", show);
