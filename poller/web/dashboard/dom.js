// Small steps on the document: only what changed is touched, so nothing flickers. Foreign text is set as text only.

export const $ = (id) => document.getElementById(id);

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setData(node, name, value) {
  const text = String(value);
  if (node.dataset[name] !== text) node.dataset[name] = text;
}

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Make the children of `host` match `items`, each identified by its key: `make` builds one, `fill` updates it.
export function update(host, items, { key, make, fill }) {
  const known = new Map([...host.children].map((node) => [node.dataset.key, node]));
  items.forEach((item, index) => {
    const name = String(key(item, index));
    let node = known.get(name);
    known.delete(name);
    if (!node) {
      node = make(item);
      node.dataset.key = name;
    }
    if (host.children[index] !== node) host.insertBefore(node, host.children[index] ?? null);
    fill(node, item, index);
  });
  for (const node of known.values()) node.remove();
}

// A table with a caption for screen readers; the first column names the row, numbers are right-aligned. A cell is the text of
// `cell`, or the node that `make` builds and `fill` updates. Other columns than before make another table.
export function table(host, caption, columns, rows) {
  const names = columns.map((column) => column.name).join("\n");
  if (host.dataset.columns !== names) {
    host.dataset.columns = names;
    host.replaceChildren();
    const heads = columns.map((column) => element("th", { scope: "col", role: "columnheader", class: column.text ? "" : "number" }, column.name));
    host.setAttribute("role", "table"); // explicit, because the narrow layout removes the implicit role
    host.append(element("caption", { class: "unseen" }, caption),
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)), element("tbody", { role: "rowgroup" }));
  }
  update(host.tBodies[0], rows, {
    key: (row) => row.key,
    make: () => element("tr", { role: "row" }, ...columns.map((column, index) => {
      const cell = index === 0 ? element("th", { scope: "row", role: "rowheader" })
        : element("td", { role: "cell", class: column.text ? "" : "number", "data-name": column.name });
      if (column.make) cell.append(column.make());
      return cell;
    })),
    fill: (node, row) => columns.forEach((column, index) => {
      const cell = node.cells[index];
      if (column.make) column.fill(cell.firstChild, row);
      else setText(cell, String(column.cell(row)));
      setData(cell, "tone", column.tone?.(row) ?? "");
    }),
  });
}
